/**
 * Measures the work of the host for generation and training on a graphics card: dispatches, submissions and processor
 * time per token and per step. It runs on Dawn's null driver, which does nothing, so it needs no card and all values
 * are zeros. See README.md.
 *
 *   npx tsx bench/gpu/host.ts [--layers 16] [--length 64] [--kernels]
 */
import {parseArgs} from 'node:util';
import * as tf from '@tensorflow/tfjs';
import {generateIds, presets} from '../../models/index.ts';
import {AdamW, Llama, useBackend} from '../../src/index.ts';

const {values: options} = parseArgs({
  options: {
    layers: {type: 'string', default: '16'},
    length: {type: 'string', default: '64'},
    steps: {type: 'string', default: '7'},
    tokens: {type: 'string', default: '64'},
    only: {type: 'string', default: 'generate,train'},
    computeDtype: {type: 'string', default: 'float16'},
    kernels: {type: 'boolean', default: false},
  },
});
const shape = {
  ...presets['llama-3.2-1b'],
  numHiddenLayers: Number(options.layers),
  hiddenSize: 64,
  intermediateSize: 128,
  numAttentionHeads: 8,
  numKeyValueHeads: 2,
  headDim: 8,
  vocabSize: 512,
};
const length = Number(options.length);
const only = options.only.split(',');

/** Numbers of dispatches by the pipeline's label, counted while `isCounting`. */
const counts = new Map<string, number>();
let submits = 0;
let isCounting = false;
function countDispatches(): void {
  const pass = GPUComputePassEncoder.prototype;
  const {setPipeline, dispatchWorkgroups} = pass;
  let label = '';
  pass.setPipeline = function (pipeline) {
    if (isCounting) label = pipeline.label || 'unnamed';
    setPipeline.call(this, pipeline);
  };
  pass.dispatchWorkgroups = function (...groups) {
    if (isCounting) counts.set(label, (counts.get(label) ?? 0) + 1);
    dispatchWorkgroups.apply(this, groups as [number]);
  };
  const queue = GPUQueue.prototype;
  const {submit} = queue;
  queue.submit = function (commands) {
    if (isCounting) submits++;
    submit.call(this, commands);
  };
}

async function counted(run: () => Promise<unknown>): Promise<{kernels: [string, number][]; submits: number}> {
  counts.clear();
  submits = 0;
  isCounting = true;
  await run();
  isCounting = false;
  return {kernels: [...counts].sort((a, b) => b[1] - a[1]), submits};
}

const median = (values: number[]) => [...values].sort((a, b) => a - b)[values.length >> 1];
const allocated = () =>
  (tf.memory() as unknown as {numBytesAllocatedInGPU: number}).numBytesAllocatedInGPU / 2 ** 20;

/** Returns the processor time of this process in milliseconds, which does not depend on other processes. */
async function processorTime(run: () => Promise<unknown>): Promise<number> {
  const begun = process.cpuUsage();
  await run();
  const {user, system} = process.cpuUsage(begun);
  return (user + system) / 1000;
}

const makeModel = () => Llama.fromConfig(shape, {dtype: 'float16', seed: 1});

async function generation() {
  const model = makeModel();
  const prompt = Array.from({length: 64}, (_, i) => (i * 31) % shape.vocabSize);
  const run = (maxNewTokens: number) =>
    processorTime(() => generateIds(model, prompt, {maxNewTokens, doSample: false, eosTokenId: []}));
  const tokens = Number(options.tokens);
  await run(8);
  const one = await counted(() => run(2));
  const two = await counted(() => run(3));
  const times: number[] = [];
  for (let i = 0; i < 5; i++) times.push((await run(tokens + 8)) - (await run(8)));
  model.dispose();
  const before = new Map(one.kernels);
  const kernels = two.kernels.map(([name, n]) => [name, n - (before.get(name) ?? 0)] as [string, number]);
  return row('token', kernels, two.submits - one.submits, median(times) / tokens);
}

async function training() {
  const model = makeModel();
  model.applyLoRA({rank: 8, alpha: 16, targetModules: 'all-linear', seed: 0});
  model.compile({optimizer: new AdamW({learningRate: 1e-4})});
  const inputIds = Array.from({length: 2}, (_, b) =>
    Array.from({length}, (_, t) => (b * 977 + t * 31) % shape.vocabSize),
  );
  const step = () => model.trainOnBatch({inputIds, labels: inputIds});
  for (let i = 0; i < 3; i++) await step();
  const {kernels, submits} = await counted(step);
  const times: number[] = [];
  for (let i = 0; i < Number(options.steps); i++) times.push(await processorTime(step));
  model.dispose();
  return row('step', kernels, submits, median(times));
}

function row(what: string, kernels: [string, number][], submits: number, ms: number) {
  if (options.kernels)
    console.table(kernels.filter(([, n]) => n > 0).map(([kernel, count]) => ({kernel, count})));
  return {
    per: what,
    dispatches: kernels.reduce((sum, [, count]) => sum + count, 0),
    submits,
    ms: Number(ms.toFixed(2)),
    'MiB allocated': Number(allocated().toFixed(1)),
  };
}

/** Uses Dawn's own driver that does nothing, so that only the host's work remains. Values are zeros. */
async function startNullDriver(): Promise<void> {
  const {create, globals} = await import('webgpu');
  Object.assign(globalThis, globals);
  const gpu = create(['backend=null', 'enable-dawn-features=allow_unsafe_apis,disable_robustness']);
  const navigator = globalThis.navigator ?? {};
  Object.defineProperty(navigator, 'gpu', {value: gpu, configurable: true});
  Object.defineProperty(globalThis, 'navigator', {value: navigator, configurable: true});
  alive.push(gpu);
}
const alive: unknown[] = [];

async function main(): Promise<void> {
  await startNullDriver();
  console.log(String(await useBackend('webgpu', {computeDtype: options.computeDtype as 'float16'})));
  countDispatches();
  const rows = [];
  if (only.includes('generate')) rows.push(await generation());
  if (only.includes('train')) rows.push(await training());
  console.table(rows);
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
