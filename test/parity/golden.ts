import {readdirSync, readFileSync} from 'node:fs';
import {join, resolve} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import type {CausalLM} from '../../models/causalLM.ts';
import {generateIds} from '../../models/generation/generate.ts';

/** The folder that make_fixtures.py writes to. Tests and scripts run from the repository's root. */
export const FIXTURES = resolve('test/parity/fixtures');

/** A float32 array with its shape, as in a golden file. */
export interface Golden {
  shape: number[];
  values: Float32Array;
}

/** One batch as the peer received it. */
export interface GoldenInputs {
  inputIds: number[][];
  labels: number[][];
  attentionMask?: number[][];
  positionIds?: number[][];
}

export interface GoldenGreedy {
  prompts: number[][];
  maxNewTokens: number;
  tokens: number[][];
  eosTokenId?: number;
}

export interface Tolerances {
  logits: number;
  mergedLogits: number;
  loss: number;
  gradient: number;
  weight: number;
  trajectoryLoss: number;
}

/** The `manifest.json` of a case; make_fixtures.py describes each part. */
export interface GoldenCase {
  name: string;
  /** Absolute path of the case's folder. */
  folder: string;
  /** Path of the model's Hugging Face folder, from {@link FIXTURES}. */
  model: string;
  adapter?: string;
  lora?: Record<string, unknown>;
  inputs: GoldenInputs;
  targetCount: number;
  /** Lengths of the sequences in a packed row. */
  lengths?: number[];
  loss?: number;
  adapterLoss?: number;
  greedy?: GoldenGreedy;
  greedyStopped?: GoldenGreedy;
  adapterGreedy?: GoldenGreedy;
  adapterGreedyBatch?: GoldenGreedy;
  tolerances: Tolerances;
}

export function readJson<T>(path: string): T {
  return JSON.parse(readFileSync(join(FIXTURES, path), 'utf8')) as T;
}

/** Returns every case in fixtures/cases that `wanted` accepts. */
export function goldenCases(wanted: (golden: GoldenCase) => boolean = () => true): GoldenCase[] {
  return readdirSync(join(FIXTURES, 'cases'))
    .sort()
    .map((name) => ({
      ...readJson<GoldenCase>(`cases/${name}/manifest.json`),
      name,
      folder: join(FIXTURES, 'cases', name),
    }))
    .filter(wanted);
}

/**
 * Reads a safetensors file of float32 tensors (path absolute or from {@link FIXTURES}), without the library's reader,
 * so that a fault in it cannot hide itself.
 */
export function readGoldens(path: string): Map<string, Golden> {
  const file = readFileSync(path.startsWith('/') ? path : join(FIXTURES, path));
  const headerBytes = Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.toString('utf8', 8, 8 + headerBytes)) as Record<
    string,
    {dtype: string; shape: number[]; data_offsets: [number, number]}
  >;
  const goldens = new Map<string, Golden>();
  for (const [name, {dtype, shape, data_offsets: offsets}] of Object.entries(header)) {
    if (name === '__metadata__') {
      continue;
    }
    if (dtype !== 'F32') {
      throw new Error(`${path}: ${name} is ${dtype}; golden numbers are F32`);
    }
    const bytes = Uint8Array.from(file.subarray(8 + headerBytes + offsets[0], 8 + headerBytes + offsets[1]));
    goldens.set(name, {shape, values: new Float32Array(bytes.buffer)});
  }
  return goldens;
}

/** Returns the golden of that name, which must exist. */
export function goldenNamed(goldens: Map<string, Golden>, name: string): Golden {
  const golden = goldens.get(name);
  if (golden === undefined) {
    throw new Error(`no golden '${name}'; there are ${[...goldens.keys()].join(', ')}`);
  }
  return golden;
}

export function toTensor({values, shape}: Golden): tf.Tensor {
  return tf.tensor(values, shape, 'float32');
}

/**
 * Expects that no element differs by more than `tolerance` × the largest expected absolute value.
 *
 * @param mask counts only some rows: one flag for each vector along the last axis (1 = compare)
 */
export async function expectClose(
  actual: tf.Tensor,
  expected: Golden,
  tolerance: number,
  mask?: number[],
): Promise<void> {
  expect(actual.shape).toEqual(expected.shape);
  const values = await actual.data();
  const width = expected.shape.length === 0 ? 1 : expected.shape[expected.shape.length - 1];
  let largest = 0;
  let difference = 0;
  let at = -1;
  for (let i = 0; i < expected.values.length; i++) {
    if (mask && !mask[Math.floor(i / width)]) {
      continue;
    }
    largest = Math.max(largest, Math.abs(expected.values[i]));
    const here = Math.abs(values[i] - expected.values[i]);
    if (!(here <= difference)) {
      difference = here; // NaN comes here too, and stays
      at = i;
    }
  }
  const relative = largest === 0 ? difference : difference / largest;
  if (!(relative <= tolerance)) {
    throw new Error(
      `differs by ${relative.toExponential(2)} of the largest value (allowed ${tolerance}); ` +
        `worst at element ${at} of [${expected.shape}]: expected ${expected.values[at]}, got ${values[at]}`,
    );
  }
}

/** Returns the norm of the difference divided by the norm of the expected values. */
export function relativeNorm(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) {
    throw new Error(`expected ${expected.length} elements, got ${actual.length}`);
  }
  let squaredDifference = 0;
  let squaredExpected = 0;
  for (let i = 0; i < expected.length; i++) {
    squaredDifference += (actual[i] - expected[i]) ** 2;
    squaredExpected += expected[i] ** 2;
  }
  return Math.sqrt(squaredDifference / (squaredExpected || 1));
}

/** Expects exactly the gradients stored as `gradient:<key>`, each within `tolerance` of its norm. */
export async function expectSameGradients(
  gradients: tf.NamedTensorMap,
  expected: Map<string, Golden>,
  tolerance: number,
): Promise<void> {
  const prefix = 'gradient:';
  const keys = [...expected.keys()]
    .filter((key) => key.startsWith(prefix))
    .map((key) => key.slice(prefix.length));
  expect(Object.keys(gradients).sort()).toEqual(keys.sort());
  for (const key of keys) {
    const {values, shape} = goldenNamed(expected, prefix + key);
    expect([key, gradients[key].shape]).toEqual([key, shape]);
    const difference = relativeNorm(await gradients[key].data(), values);
    if (!(difference <= tolerance))
      throw new Error(`gradient of ${key} differs by ${difference} of its norm`);
  }
}

/** Expects `actual` within `tolerance` relative (of the expected value). */
export function expectRelative(actual: number, expected: number, tolerance: number): void {
  if (!(Math.abs(actual - expected) <= tolerance * Math.abs(expected))) {
    throw new Error(`expected ${expected} ± ${tolerance * 100} %, got ${actual}`);
  }
}

/** Computes the logits `[B, T, vocab]` of a golden batch, with the peer's padding and positions. */
export function logitsOf(model: CausalLM, {inputIds, attentionMask, positionIds}: GoldenInputs): tf.Tensor {
  const tensor = (rows: number[][]) => tf.tensor2d(rows, undefined, 'int32');
  return tf.tidy(() =>
    model.logitsOf(
      model.forward(tensor(inputIds), {
        attentionMask: attentionMask && tensor(attentionMask),
        positionIds,
      }),
    ),
  );
}

/** Expects the model's greedy continuation to be the peer's, token for token. */
export async function expectSameTokens(
  model: CausalLM,
  {prompts, maxNewTokens, tokens, eosTokenId}: GoldenGreedy,
): Promise<void> {
  const options = {maxNewTokens, doSample: false, eosTokenId: eosTokenId ?? []};
  expect(await generateIds(model, prompts, options)).toEqual(tokens);
}
