/**
 * Runs a recipe here and in PyTorch + PEFT, on the same batches from the same adapter. It compares loss, gradient norm
 * and learning rate of every step, and draws both loss curves in one plot.
 *
 *   npx tsx bench/recipe.ts recipe.yaml [key=value …] --python path/to/python [--backend wasm] [--out out/recipe-peer]
 *
 * The recipe runs as `tfjs-lora train` runs it, and the batches are recorded. The peer, recipe_peer.py, reads the
 * batches, not the data. Both use float32, AdamW (`optim: adamw_torch`) and no dropout, whose random numbers differ
 * there. A GGUF base is read there by transformers and PyPI's gguf; of QLoRA, the peer trains on our quantized base, as
 * bitsandbytes reads it. Then the adapter is merged and exported, and transformers' logits of that folder are compared
 * with PEFT's of the adapter. The status is 1 when a loss of the first 50 steps differs by more than 1e-3, or a logit by more than
 * 1e-4 of the largest.
 */
import {execFileSync} from 'node:child_process';
import {mkdirSync, readFileSync, rmSync, writeFileSync} from 'node:fs';
import {join, resolve} from 'node:path';
import {parseArgs} from 'node:util';
import type {Batch} from '../models/batchLoss.ts';
import {
  AutoModelForCausalLM,
  type BackendName,
  type Llama,
  type StepLog,
  type TrainingCallback,
} from '../src/index.ts';
import {exportModel} from '../src/tools/recipes/exportModel.ts';
import {folderOf} from '../src/tools/recipes/openModel.ts';
import {loadRecipe, type Recipe} from '../src/tools/recipes/recipe.ts';
import {trainRecipe} from '../src/tools/recipes/trainRecipe.ts';
import {overlayPlot} from './overlayPlot.ts';

const LOSS_TOLERANCE = 1e-3;
const LOGIT_TOLERANCE = 1e-4;
const COMPARED_STEPS = 50;

interface Curve {
  losses: number[];
  gradNorms: number[];
  learningRates: number[];
}

interface Peer extends Curve {
  /**
   * Difference between transformers' logits of the exported folder and PEFT's of the adapter, as a share of the
   * largest.
   */
  exportDifference: number;
}

/** Runs the recipe, and writes the peer's inputs to `folder`. */
async function ours(recipe: Recipe, folder: string, backend: BackendName): Promise<Curve> {
  const windows: Batch[][] = [[]];
  const records: StepLog[] = [];
  let model: Llama;
  const recorder: TrainingCallback = {
    setModel: (trained) => {
      model = trained as Llama;
      const lossSum = model.lossSum.bind(model);
      model.lossSum = (batch, options) => {
        if (options?.training) windows.at(-1)?.push(batch);
        return lossSum(batch, options);
      };
    },
    onTrainBegin: () => model.saveAdapter(join(folder, 'initial')),
    onStepEnd: (record) => {
      records.push(record);
      windows.push([]);
    },
  };
  await trainRecipe(recipe, {backend, callbacks: [recorder], print: (text) => console.error(text)});
  const lines = windows.slice(0, records.length).map((window) =>
    JSON.stringify(
      window.map(({inputIds, attentionMask, labels}) => ({
        input_ids: inputIds,
        attention_mask: attentionMask,
        labels,
      })),
    ),
  );
  writeFileSync(join(folder, 'batches.jsonl'), lines.join('\n'));
  return {
    losses: records.map(({loss}) => loss),
    gradNorms: records.map(({gradNorm}) => gradNorm),
    learningRates: records.map(({learningRate}) => learningRate),
  };
}

async function theirs(recipe: Recipe, folder: string, python: string, steps: number): Promise<Peer> {
  const {learningRate, beta1, beta2, epsilon, weightDecay} = recipe.optimizer;
  const {schedule, maxGradNorm} = recipe.compile;
  const {warmup} = recipe;
  const base = resolve(await folderOf(recipe.model.nameOrPath, recipe));
  const run = {
    base,
    model: await trainedBase(recipe, base, folder),
    learningRate,
    beta1,
    beta2,
    epsilon,
    weightDecay,
    schedule: schedule.name,
    warmupSteps: warmup.steps || Math.ceil(warmup.ratio * steps),
    totalSteps: steps,
    maxGradNorm: maxGradNorm ?? 0,
  };
  writeFileSync(join(folder, 'run.json'), JSON.stringify(run, null, 2));
  const script = join(import.meta.dirname, 'recipe_peer.py');
  execFileSync(python, [script, folder], {stdio: ['ignore', 'inherit', 'inherit']});
  return JSON.parse(readFileSync(join(folder, 'peer.json'), 'utf8')) as Peer;
}

/** Returns the base that the peer trains on: the recipe's own, or what its quantization makes of it. */
async function trainedBase(
  {model: {quantization, dtype}}: Recipe,
  base: string,
  folder: string,
): Promise<string> {
  if (!quantization) return base;
  const model = await AutoModelForCausalLM.fromPretrained(base, {quantization, dtype});
  const quantized = join(folder, 'quantized');
  await model.save(quantized);
  model.dispose();
  return quantized;
}

function largestDifference(a: number[], b: number[]): number {
  return Math.max(
    ...a.map((value, index) => Math.abs(value - b[index]) / Math.max(Math.abs(b[index]), 1e-30)),
  );
}

async function main(): Promise<void> {
  const {values, positionals} = parseArgs({
    allowPositionals: true,
    options: {
      backend: {type: 'string', default: 'wasm'},
      python: {type: 'string', default: 'python3'},
      out: {type: 'string', default: join('out', 'recipe-peer')},
    },
  });
  const folder = resolve(values.out);
  rmSync(folder, {recursive: true, force: true});
  mkdirSync(folder, {recursive: true});
  const [path, ...overrides] = positionals;
  const recipe = await loadRecipe(path, [
    ...overrides,
    `output_dir=${join(folder, 'run')}`,
    'lora_dropout=0',
    'optim=adamw_torch',
  ]);
  const mine = await ours(recipe, folder, values.backend as BackendName);
  await exportModel({
    model: await folderOf(recipe.model.nameOrPath, recipe),
    adapters: [join(folder, 'run')],
    exportDir: join(folder, 'merged'),
  });
  const peer = await theirs(recipe, folder, values.python, mine.losses.length);

  const rows = (['losses', 'gradNorms', 'learningRates'] as const).map((name) => ({
    name,
    first: largestDifference(mine[name].slice(0, COMPARED_STEPS), peer[name].slice(0, COMPARED_STEPS)),
    all: largestDifference(mine[name], peer[name]),
  }));
  console.log(`largest relative difference     first ${COMPARED_STEPS} steps   all ${mine.losses.length}`);
  for (const {name, first, all} of rows) {
    console.log(
      `${name.padEnd(30)} ${first.toExponential(2).padStart(15)} ${all.toExponential(2).padStart(10)}`,
    );
  }
  const [{first, all}] = rows;
  const subtitle = `largest relative difference ${first.toExponential(1)} in the first ${COMPARED_STEPS} steps`;
  const curves = {'tfjs-lora': mine.losses, 'PyTorch + PEFT': peer.losses};
  await overlayPlot([{curves, title: 'The same recipe, the same batches', subtitle}], join(folder, 'loss'));
  console.log(
    `exported model in transformers: logits differ by ${peer.exportDifference.toExponential(2)} of the largest`,
  );
  console.log(`plot ${join(folder, 'loss.png')}`);
  const {exportDifference} = peer;
  const summary = {steps: mine.losses.length, first, all, exportDifference};
  console.log(JSON.stringify({...summary, ours: mine.losses, peer: peer.losses}));
  if (first > LOSS_TOLERANCE || exportDifference > LOGIT_TOLERANCE) process.exitCode = 1;
}

main().then(
  () => process.exit(process.exitCode ?? 0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
