/**
 * Measures one update of every weight by each optimizer: time, and bytes of state on the device between steps and at
 * the peak of a step. `npx tsx bench/optimizers.ts [wasm | cpu] [lora | full] [--json FILE]` uses the weights of LoRA
 * with rank 8 on all linear layers of Llama 3.2 1B, or six matrices of [2048, 2048] in full. Prints a table and a line
 * of JSON.
 */
import {writeFileSync} from 'node:fs';
import * as tf from '@tensorflow/tfjs';
import {
  AdamW,
  AdamW8bit,
  type BackendName,
  Lion,
  Lion8bit,
  PagedAdamW,
  PagedAdamW8bit,
  PagedLion,
  PagedLion8bit,
  useBackend,
} from '../src/index.ts';
import type {NamedStateOptimizer} from '../src/training/optimizers/index.ts';

const ROUNDS = 7;
const words = process.argv.slice(2);
const isFull = words.includes('full');
await useBackend((words.find((word) => word === 'cpu') ?? 'wasm') as BackendName);

/**
 * Shapes of rank 8 for the seven linear layers of a block: hidden size 2048, keys and values 512, intermediate 8192.
 */
const BLOCK = [
  [2048, 2048],
  [2048, 512],
  [2048, 512],
  [2048, 2048],
  [2048, 8192],
  [2048, 8192],
  [8192, 2048],
].flatMap(([inputDim, units]) => [
  [8, inputDim],
  [units, 8],
]);
const shapes = isFull
  ? Array.from({length: 6}, () => [2048, 2048])
  : Array.from({length: 16}, () => BLOCK).flat();

const weights = shapes.map((shape, i) =>
  tf.tidy(() => tf.randomNormal(shape, 0, 0.02).variable(true, `weight${i}`)),
);
const gradients = Object.fromEntries(weights.map(({name, shape}) => [name, tf.randomNormal(shape, 0, 1e-3)]));
const parameters = weights.reduce((sum, {size}) => sum + size, 0);
const budget = {deviceBudgetBytes: isFull ? 128 * 2 ** 20 : 4 * 2 ** 20};

const optimizers: NamedStateOptimizer[] = [
  new AdamW(),
  new AdamW8bit(),
  new PagedAdamW(budget),
  new PagedAdamW8bit(budget),
  new Lion(),
  new Lion8bit(),
  new PagedLion(budget),
  new PagedLion8bit(budget),
];

const results = [];
for (const optimizer of optimizers) {
  const before = tf.memory().numBytes;
  optimizer.applyGradients(gradients);
  const stateBytes = tf.memory().numBytes - before;
  const {peakBytes} = await tf.profile(() => optimizer.applyGradients(gradients));
  results.push({
    name: optimizer.getClassName(),
    stateBytes,
    peakBytes: peakBytes - before,
    times: [] as number[],
  });
}
for (let round = 0; round < ROUNDS; round++) {
  for (const [i, optimizer] of optimizers.entries()) {
    const start = performance.now();
    optimizer.applyGradients(gradients);
    results[i].times.push(performance.now() - start);
  }
}
for (const {times} of results) times.sort((a, b) => a - b);

const megabytes = (bytes: number) => (bytes / 1e6).toFixed(1).padStart(14);
console.log(
  `${tf.getBackend()}: ${parameters.toLocaleString('en')} weights in ${weights.length} tensors, ${ROUNDS} rounds\n`,
);
console.log(
  `${'optimizer'.padEnd(16)}${'ms'.padStart(8)}${'(best)'.padStart(10)}${'state, MB'.padStart(14)}${'peak, MB'.padStart(14)}`,
);
for (const {name, times, stateBytes, peakBytes} of results) {
  const [median, best] = [times[Math.floor(ROUNDS / 2)], times[0]];
  const time = `${median.toFixed(0).padStart(8)}${`(${best.toFixed(0)})`.padStart(10)}`;
  console.log(name.padEnd(16) + time + megabytes(stateBytes) + megabytes(peakBytes));
}
const json = JSON.stringify({backend: tf.getBackend(), parameters, results});
console.log(`\n${json}`);
const file = words[words.indexOf('--json') + 1];
if (words.includes('--json')) writeFileSync(file, `${json}\n`);
