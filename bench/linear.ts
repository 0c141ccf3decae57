/**
 * Compares forward and backward of a frozen linear layer with the backend's own plain product of the same size, on
 * `wasm`:
 *
 *     npx tsx bench/linear.ts [--threads 1,2] [--rounds 15] [--json FILE]
 *
 * README.md beside this file explains the table.
 */
import {execFileSync} from 'node:child_process';
import {writeFileSync} from 'node:fs';
import {parseArgs} from 'node:util';
import * as tf from '@tensorflow/tfjs';
import '@tensorflow/tfjs-backend-wasm';
import {linear} from '../layers/ops/linear.ts';
import {storeQuantized} from '../layers/ops/quantizedMatrix.ts';
import type {StoredMatrix} from '../layers/ops/storedMatrix.ts';
import {quantizeNF4} from '../quant/blockwise/fourBit.ts';
import {packFloat32Rows} from '../quant/float16.ts';
import {quantizeInt8} from '../quant/int8.ts';
import {useBackend} from '../src/training/backends/useBackend.ts';

const ROWS = 512;
const SIZE = 2048;
const FLOPS = 2 * ROWS * SIZE * SIZE;

interface Result {
  threads: number;
  weight: 'float32' | 'bfloat16' | 'nf4' | 'int8';
  /** GFLOP/s of the stock kernel, in the median and the best round. */
  plain: number;
  plainBest: number;
  /** GFLOP/s of forward + backward. */
  linear: number;
  linearBest: number;
  /** Median over the rounds of linear / plain, measured side by side, in percent. */
  percent: number;
}

const {values: options} = parseArgs({
  options: {
    threads: {type: 'string', default: '1,2'},
    rounds: {type: 'string', default: '15'},
    json: {type: 'string'},
    child: {type: 'boolean', default: false},
  },
});

if (options.child) {
  console.log(JSON.stringify(await measure(Number(options.threads), Number(options.rounds))));
} else {
  // A process cannot change its number of threads, so each number gets its own process.
  const results = options.threads.split(',').flatMap((threads) => {
    const args = [
      ...process.execArgv,
      process.argv[1],
      '--child',
      '--threads',
      threads,
      '--rounds',
      options.rounds,
    ];
    const output = execFileSync(process.execPath, args, {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    return JSON.parse(output) as Result[];
  });
  print(results);
  if (options.json) writeFileSync(options.json, `${JSON.stringify(results, null, 2)}\n`);
}

async function measure(threads: number, rounds: number): Promise<Result[]> {
  const stock = tf.getKernel(tf.BatchMatMul, 'wasm'); // before ours replaces it
  await useBackend('wasm', {threads, stockThreads: threads});
  const x = tf.randomNormal([ROWS, SIZE], 0, 1, 'float32', 1) as tf.Tensor2D;
  const dy = tf.randomNormal([ROWS, SIZE], 0, 1, 'float32', 2) as tf.Tensor2D;
  const plainWeight = tf.randomNormal([SIZE, SIZE], 0, 1, 'float32', 3);
  const values = plainWeight.dataSync() as Float32Array;
  const packed = packFloat32Rows(values, SIZE, SIZE, 'bfloat16');
  const size = {rows: SIZE, cols: SIZE};
  const weights: StoredMatrix[] = [
    {tensor: plainWeight.clone(), dtype: 'float32', ...size},
    {tensor: tf.tensor2d(packed, [SIZE, SIZE / 2], 'int32'), dtype: 'bfloat16', ...size},
    storeQuantized(quantizeNF4(values, [SIZE, SIZE], {doubleQuant: true})),
    storeQuantized(quantizeInt8(values, [SIZE, SIZE])),
  ];
  const plain = () => {
    const info = stock.kernelFunc({
      inputs: {a: x, b: plainWeight},
      attrs: {},
      backend: tf.backend(),
    }) as tf.TensorInfo;
    tf.engine().makeTensorFromTensorInfo(info).dispose();
  };
  const steps = weights.map((weight) => {
    const forwardBackward = tf.grad((input) => linear(input as tf.Tensor2D, weight));
    return () => forwardBackward(x, dy).dispose();
  });
  plain();
  for (const step of steps) step();
  const plainTimes: number[] = [];
  const stepTimes = weights.map((): number[] => []);
  for (let round = 0; round < rounds; round++) {
    plainTimes.push(timeOf(plain));
    for (const [i, step] of steps.entries()) stepTimes[i].push(timeOf(step));
  }
  return weights.map(({dtype}, i) => ({
    threads,
    weight: dtype as Result['weight'],
    plain: FLOPS / median(plainTimes) / 1e6,
    plainBest: FLOPS / Math.min(...plainTimes) / 1e6,
    linear: (2 * FLOPS) / median(stepTimes[i]) / 1e6,
    linearBest: (2 * FLOPS) / Math.min(...stepTimes[i]) / 1e6,
    percent: 100 * median(stepTimes[i].map((time, round) => (2 * plainTimes[round]) / time)),
  }));
}

function timeOf(run: () => void): number {
  const start = performance.now();
  run();
  return performance.now() - start;
}

function median(values: number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)];
}

function print(results: Result[]): void {
  const columns = ['threads', 'weight', 'plain GFLOP/s (best)', 'linear GFLOP/s (best)', 'linear / plain'];
  const rows = results.map((result) => [
    String(result.threads),
    result.weight,
    `${result.plain.toFixed(1)} (${result.plainBest.toFixed(1)})`,
    `${result.linear.toFixed(1)} (${result.linearBest.toFixed(1)})`,
    `${result.percent.toFixed(0)} %`,
  ]);
  const widths = columns.map((column, i) => Math.max(column.length, ...rows.map((row) => row[i].length)));
  for (const row of [columns, ...rows])
    console.log(
      row
        .map((cell, i) => cell.padEnd(widths[i]))
        .join('  ')
        .trimEnd(),
    );
}
