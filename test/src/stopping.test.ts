import {mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {loadPrompts} from '../../src/data/index.ts';
import * as src from '../../src/index.ts';
import {ChatSession} from '../../src/tools/chat/index.ts';
import {compareModels, parseCandidate, predictDataset} from '../../src/tools/evaluation/index.ts';
import {exportModel} from '../../src/tools/recipes/index.ts';
import {tinyConfig} from '../models/tinyLlama.ts';

/** What every long call takes. */
interface Watch {
  signal?: AbortSignal;
  onProgress?: () => void;
}

const QUICKSTART = join(__dirname, '../../examples/quickstart/model');
const REASON = new Error('enough');

let folder: string;
let model: src.Llama;
let tokenizer: src.Tokenizer;
beforeAll(async () => {
  await tf.setBackend('cpu');
  folder = mkdtempSync(join(tmpdir(), 'tfjs-lora-stopping-'));
  tokenizer = await src.Tokenizer.fromFolder(QUICKSTART);
  const vocabSize = 2048;
  const config = {...tinyConfig, vocabSize, maxPositionEmbeddings: 64, eosTokenId: [] as number[]};
  model = src.Llama.fromConfig(config, {seed: 1});
  model.tokenizer = tokenizer;
  await model.save(at('base'));
  model.applyLoRA({rank: 2, seed: 0});
  await model.saveAdapter(at('adapter'));
  model.compile({optimizer: new src.AdamW({learningRate: 1e-3})});
  mkdirSync(at('data'));
  const records = Array.from({length: 120}, (_, i) => ({instruction: `say ${i}`, output: `${i}`}));
  writeFileSync(at('data/records.json'), JSON.stringify(records));
}, 120_000);
afterAll(() => {
  model.dispose();
  rmSync(folder, {recursive: true});
});

const at = (name: string) => join(folder, name);
const keras = () =>
  tf.sequential({
    layers: [
      tf.layers.dense({units: 4, inputShape: [4], name: 'first'}),
      tf.layers.dense({units: 4, name: 'second'}),
    ],
  });
const records = Array.from({length: 120}, (_, i) => ({prompt: `say ${i}`, completion: `${i}`}));
const examples = [{inputIds: [1, 2, 3]}, {inputIds: [4, 5, 6]}];
const prompts = [1, 2, 3].map((id) => ({promptIds: [id, id], prompt: '', label: 'x'}));
const data = () => ({
  dataset: 'all',
  datasetDir: {all: {file_name: at('data/records.json')}},
  tokenizer,
  template: 'llama3',
});
const base = () => src.Llama.fromPretrained(at('base'));

/** Long calls, each on its own model if it changes it. What a call makes is disposed by the test that expects it. */
const calls: Record<string, (watch: Watch) => unknown> = {
  fromPretrained: (watch) => src.Llama.fromPretrained(at('base'), watch),
  'fromPretrained, quantized': (watch) =>
    src.Llama.fromPretrained(at('base'), {quantization: {type: 'nf4', blockSize: 8 * 8}, ...watch}),
  save: (watch) => base().then((own) => own.save(at('saved'), watch).finally(() => own.dispose())),
  loadAdapter: (watch) =>
    base().then((own) => own.loadAdapter(at('adapter'), watch).finally(() => own.dispose())),
  mergeLoRA: (watch) => onAdapted((own) => own.mergeLoRA(watch)),
  fuseLoRA: (watch) => onAdapted((own) => own.fuseLoRA(watch)),
  quantize: (watch) => onAdapted((own) => own.quantize('int8', watch)),
  exportModel: (watch) =>
    exportModel({model: at('base'), adapters: [at('adapter')], exportDir: at('exported'), ...watch}),
  generate: (watch) => model.generate([[1, 2], [3]], {maxNewTokens: 4, ...watch}),
  chat: (watch) => model.chat([{role: 'user', content: 'x'}], {maxNewTokens: 4, ...watch}),
  stream: async (watch) => {
    for await (const _ of model.stream([1, 2], {maxNewTokens: 4, ...watch}));
  },
  evaluateDataset: (watch) => model.evaluateDataset(examples, {batchSize: 1, ...watch}),
  predictDataset: (watch) => predictDataset(model, prompts, {batchSize: 1, maxNewTokens: 2, ...watch}),
  compareModels: (watch) =>
    compareModels([parseCandidate('base')], {
      open: base,
      prompts,
      options: {batchSize: 1, maxNewTokens: 2},
      ...watch,
    }),
  dataset: (watch) => model.dataset(records, {template: 'llama3', ...watch}),
  loadDataset: (watch) => src.loadDataset({...data(), ...watch}),
  loadPrompts: (watch) => loadPrompts({...data(), ...watch}),
  'Keras quantize': (watch) => onKeras((own) => src.quantize(own, {type: 'int8', skipModules: []}, watch)),
  'Keras mergeLoRA': (watch) =>
    onKeras((own) => {
      const adapted = src.applyLoRA(own, {rank: 2});
      try {
        return src.mergeLoRA(adapted, watch);
      } finally {
        adapted.dispose();
      }
    }),
};

async function onAdapted(run: (own: src.Llama) => unknown): Promise<void> {
  const own = await base();
  try {
    await own.loadAdapter(at('adapter'));
    await run(own);
  } finally {
    own.dispose();
  }
}

async function onKeras(run: (own: tf.LayersModel) => unknown): Promise<void> {
  const own = keras();
  try {
    const made = await run(own);
    (made as tf.LayersModel).dispose();
  } finally {
    own.dispose();
  }
}

/** Fails unless the call rejects with the signal's reason and leaves neither tensors nor files behind. */
async function expectStopped(call: (watch: Watch) => unknown, watch: Watch): Promise<void> {
  const tensors = tf.memory().numTensors;
  const files = readdirSync(folder, {recursive: true}) as string[];
  await expect((async () => call(watch))()).rejects.toBe(REASON);
  expect(tf.memory().numTensors).toBe(tensors);
  const names = (readdirSync(folder, {recursive: true}) as string[]).filter((name) => !files.includes(name));
  expect(names.filter((name) => !['saved', 'exported'].includes(name))).toEqual([]); // empty folders may remain
}

describe.each(Object.keys(calls))('%s', (name) => {
  test('ends with the reason of a signal that is already aborted', async () => {
    await expectStopped(calls[name], {signal: AbortSignal.abort(REASON)});
  });

  test('reports progress, and ends when it is aborted, leaving no tensor and no file', async () => {
    const controller = new AbortController();
    let reports = 0;
    const onProgress = () => {
      reports++;
      controller.abort(REASON);
    };
    await expectStopped(calls[name], {signal: controller.signal, onProgress});
    expect(reports).toBe(1);
  });

  const isSynchronous = /mergeLoRA|fuseLoRA/.test(name);
  (isSynchronous ? test.skip : test)('ends when a signal arrives on its own', async () => {
    const controller = new AbortController();
    setImmediate(() => controller.abort(REASON));
    await expectStopped(calls[name], {signal: controller.signal});
  });
});

test('an aborted save leaves the files of an earlier one, which still load', async () => {
  const own = await base();
  await own.save(at('twice'));
  const before = readdirSync(at('twice'));
  const controller = new AbortController();
  await expect(
    own.save(at('twice'), {
      maxShardBytes: 2000,
      signal: controller.signal,
      onProgress: ({done}) => {
        if (done === 3) controller.abort(REASON);
      },
    }),
  ).rejects.toBe(REASON);
  expect(readdirSync(at('twice'))).toEqual(before);
  (await src.Llama.fromPretrained(at('twice'))).dispose();
  own.dispose();
});

test('progress ends at the total', async () => {
  const last: Record<string, {done: number; total?: number}> = {};
  const own = await base();
  const see = (call: string) => (progress: {done: number; total?: number}) => {
    last[call] = progress;
  };
  await own.loadAdapter(at('adapter'), {onProgress: see('loadAdapter')});
  own.fuseLoRA({onProgress: see('fuseLoRA')});
  await own.save(new Map(), {onProgress: see('save')});
  await own.quantize('int8', {onProgress: see('quantize')});
  await own.generate([[1, 2], [3]], {maxNewTokens: 2, onProgress: see('generate')});
  await own.evaluateDataset(examples, {batchSize: 1, onProgress: see('evaluateDataset')});
  await model.dataset(records, {template: 'llama3', onProgress: see('dataset')});
  own.dispose();
  expect(Object.keys(last)).toHaveLength(7);
  for (const {done, total} of Object.values(last)) expect(done).toBe(total);
  expect(last.generate).toEqual({done: 2, total: 2, newTokens: 4});
  expect(last.evaluateDataset).toEqual({done: 2, total: 2});
});

test('a chat session forgets a question whose answer was aborted', async () => {
  const session = new ChatSession(model, {maxNewTokens: 4, eosTokenId: []});
  const controller = new AbortController();
  const send = async () => {
    for await (const _ of session.send('x', {signal: controller.signal})) controller.abort(REASON);
  };
  await expect(send()).rejects.toBe(REASON);
  expect(session.history).toEqual([]);
});
