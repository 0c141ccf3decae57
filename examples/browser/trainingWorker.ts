/// <reference types="vite/client" />
import plainWasm from '@tensorflow/tfjs-backend-wasm/dist/tfjs-backend-wasm.wasm?url';
import simdWasm from '@tensorflow/tfjs-backend-wasm/dist/tfjs-backend-wasm-simd.wasm?url';
import threadedWasm from '@tensorflow/tfjs-backend-wasm/dist/tfjs-backend-wasm-threaded-simd.wasm?url';
import {
  AdamW,
  AutoModelForCausalLM,
  type BackendName,
  type StepLog,
  type TrainableCausalLM,
  type TrainingRecord,
  useBackend,
} from 'tfjs-lora';
import {
  CachedFolder,
  type DownloadProgress,
  StorageFolder,
  serveTasks,
  type TaskContext,
} from 'tfjs-lora/browser';
import {billRecords} from '../quickstart/billGenerator.ts';

/*
 * The page's worker: model, data and training. From the library it uses useBackend, AutoModelForCausalLM, applyLoRA,
 * fitDataset, stream, saveAdapter, loadAdapter; CachedFolder for the model and StorageFolder for the run.
 */

/** Settings of a training, which its folder keeps so that it can be resumed. */
export interface Settings {
  steps: number;
  rank: number;
  batch: number;
  /** Number of bills to learn from. */
  bills: number;
  /** The reader's own text to learn from instead. */
  text?: string;
  /** Steps between checkpoints. */
  saveSteps: number;
}

/** A training in the browser's storage. */
export interface StoredRun {
  settings: Settings;
  isFinished: boolean;
  /** Losses of the steps up to the last checkpoint. */
  losses: number[];
}

export type TrainingReport = {step: StepLog} | {compiled: number; total: number};

const SETTINGS = 'settings.json';

let model: TrainableCausalLM;
let run: StorageFolder;

const tasks = serveTasks({
  /** Starts the backend, and opens the model, which is downloaded only the first time. */
  async open(
    {backend, modelUrl, runName}: {backend: 'auto' | BackendName; modelUrl: string; runName: string},
    {report}: TaskContext<DownloadProgress>,
  ) {
    const wasmPaths = {
      'tfjs-backend-wasm.wasm': plainWasm,
      'tfjs-backend-wasm-simd.wasm': simdWasm,
      'tfjs-backend-wasm-threaded-simd.wasm': threadedWasm,
    };
    const backendReport = await useBackend(backend, {wasmPaths});
    const stored = new StorageFolder('models/quickstart');
    model = await AutoModelForCausalLM.fromPretrained(
      new CachedFolder(modelUrl, stored, {onProgress: report}),
    );
    model.gradientCheckpointing = false; // so small a model need not save memory
    run = new StorageFolder(`runs/${runName}`);
    const {device, features} = backendReport;
    return {
      backend: backendReport.backend,
      device,
      features,
      text: String(backendReport),
      run: await storedRun(),
    };
  },

  /** Trains a new adapter, or resumes the training in the storage. */
  async train(
    {settings, isResumed}: {settings: Settings; isResumed: boolean},
    {report, signal}: TaskContext<TrainingReport>,
  ) {
    const {steps, rank, batch, saveSteps} = settings;
    const records = recordsOf(settings);
    if (model.adapterNames.includes('default')) model.deleteAdapter('default');
    model.applyLoRA({rank, alpha: 2 * rank, seed: 0});
    model.compile({
      optimizer: new AdamW({learningRate: 1e-2, weightDecay: 0}),
      schedule: {name: 'cosine', warmupSteps: Math.min(10, Math.floor(steps / 4))},
      maxGradNorm: 1,
    });
    try {
      await model.fitDataset(records, {
        epochs: Math.ceil((steps * batch) / records.length),
        maxSteps: steps,
        batchSize: batch,
        outputDir: run,
        resumeFromCheckpoint: isResumed,
        overwriteOutputDir: true,
        loggingSteps: 1,
        saveSteps,
        saveTotalLimit: 2,
        signal,
        callbacks: {
          onTrainBegin: () => run.write(SETTINGS, JSON.stringify(settings)),
          onCompile: (compiled, total) => report({compiled, total}),
          onStepEnd: (step) => report({step}),
        },
      });
    } finally {
      model.optimizer.dispose();
    }
    return storedRun();
  },

  /** Answers a message, or continues a text, and reports the pieces as they are generated. */
  async write(
    {message, text, maxNewTokens}: {message?: string; text?: string; maxNewTokens: number},
    {report, signal}: TaskContext<string>,
  ) {
    const messages = [{role: 'user', content: message ?? ''}];
    const prompt = text ?? model.tokenizer!.encodeChat(messages, {addGenerationPrompt: true});
    for await (const piece of model.stream(prompt, {maxNewTokens, doSample: false, signal})) report(piece);
  },

  async saveAdapter() {
    const files = new Map<string, Blob>();
    await model.saveAdapter(files);
    return files;
  },

  async loadAdapter(files: File[]) {
    const had = model.adapterNames.includes('default');
    await model.loadAdapter(files, {adapterName: had ? 'loaded' : 'default'});
    if (had) model.deleteAdapter('default');
  },
});
export type Tasks = typeof tasks;

/** Returns bills with their summaries, or the paragraphs of the reader's text. */
function recordsOf({text, bills}: Settings): TrainingRecord[] {
  if (text === undefined) return billRecords('train', bills);
  const paragraphs = text.split(/\n\s*\n/).map((paragraph) => paragraph.trim());
  const records = paragraphs.filter(Boolean).map((paragraph) => ({text: paragraph}));
  if (records.length === 0) throw new Error('There is no text to learn from yet. Write or paste some.');
  return records;
}

/** Reads what the storage has of the last training. */
async function storedRun(): Promise<StoredRun | undefined> {
  const names = await run.names();
  const settings = await jsonIn(SETTINGS);
  const steps = names.map((name) => Number(/^checkpoint-(\d+)$/.exec(name)?.[1] ?? 0));
  for (const step of steps.sort((a, b) => b - a)) {
    const state = await jsonIn(`checkpoint-${step}/trainer_state.json`);
    if (!settings || !state) continue;
    const losses = state.log_history.flatMap(({loss}: {loss?: number}) => (loss === undefined ? [] : [loss]));
    return {settings, isFinished: names.includes('train_results.json'), losses};
  }
  return undefined;
}

async function jsonIn(name: string) {
  const file = await run.fileOf(name);
  return file && JSON.parse(await file.text());
}
