import {TfjsLoraError} from '../errors.ts';

/** float32 lanes of the vectors that torch sums on every x86 CPU. */
const LANES = 8;
/** Number of partial sums that torch keeps side by side. */
const ROWS = 4;
const LEVELS = 4;
/** Below this number of values, torch sums in one thread. */
const GRAIN = 32768;

/**
 * Computes the mean of float32 values in the exact order of additions that torch's `mean()` uses on an x86 CPU, so that
 * double quantization's offset is bit-exact.
 *
 * From 32,768 values on, torch splits the sum among its threads, so its result depends on their number. The default of
 * 1 thread gives the same result on every machine; pass `torch.get_num_threads()` to reproduce another.
 *
 * @returns the mean as a float32 number; NaN for no values
 */
export function torchMean(values: Float32Array, threads = 1): number {
  if (!Number.isSafeInteger(threads) || threads < 1) {
    throw new TfjsLoraError('INVALID_ARGUMENT', `torchMean [threads]: expected at least 1, got ${threads}.`);
  }
  return Math.fround(torchSum(values, threads) / values.length);
}

function torchSum(values: Float32Array, threads: number): number {
  if (threads === 1 || values.length < GRAIN) return cascadeSum(values);
  const workers = Math.min(threads, Math.ceil(values.length / GRAIN));
  const chunk = Math.ceil(values.length / workers);
  const partials = new Float32Array(threads);
  for (let i = 0; i < workers; i++) partials[i] = cascadeSum(values.subarray(i * chunk, (i + 1) * chunk));
  return cascadeSum(partials);
}

function cascadeSum(values: Float32Array): number {
  if (values.length < LANES) return rowSum(values, 1)[0];
  const whole = values.length - (values.length % LANES);
  const lanes = rowSum(values.subarray(0, whole), LANES);
  let sum = 0;
  for (let i = whole; i < values.length; i++) sum = Math.fround(sum + values[i]);
  for (const lane of lanes) sum = Math.fround(sum + lane);
  return sum;
}

/** Sums vectors of `lanes` values: {@link ROWS} interleaved cascades, then the remainder, then across the rows. */
function rowSum(values: Float32Array, lanes: number): Float32Array {
  const vectors = values.length / lanes;
  const steps = Math.floor(vectors / ROWS);
  const width = ROWS * lanes;
  const sums = interleavedCascade(values, steps, width);
  for (let v = steps * ROWS; v < vectors; v++) {
    for (let lane = 0; lane < lanes; lane++) sums[lane] += values[v * lanes + lane];
  }
  for (let row = 1; row < ROWS; row++) {
    for (let lane = 0; lane < lanes; lane++) sums[lane] += sums[row * lanes + lane];
  }
  return sums.subarray(0, lanes);
}

/** Computes `width` running sums over `steps` rows, carried to a coarser level whenever a chunk is full. */
function interleavedCascade(values: Float32Array, steps: number, width: number): Float32Array {
  const power = Math.max(4, Math.floor(ceilLog2(steps) / LEVELS));
  const chunk = 2 ** power;
  const levels = Array.from({length: LEVELS}, () => new Float32Array(width));
  let step = 0;
  while (step + chunk <= steps) {
    for (const end = step + chunk; step < end; step++) addRow(levels[0], values, step * width);
    for (let level = 1; level < LEVELS; level++) {
      addRow(levels[level], levels[level - 1], 0);
      levels[level - 1].fill(0);
      if ((step & ((chunk - 1) << (level * power))) !== 0) break;
    }
  }
  for (; step < steps; step++) addRow(levels[0], values, step * width);
  for (let level = 1; level < LEVELS; level++) addRow(levels[0], levels[level], 0);
  return levels[0];
}

/** Adds a row. A Float32Array rounds at each store, as torch's accumulators do. */
function addRow(sums: Float32Array, values: Float32Array, start: number): void {
  for (let k = 0; k < sums.length; k++) sums[k] += values[start + k];
}

function ceilLog2(value: number): number {
  return value <= 2 ? 1 : 32 - Math.clz32(value - 1);
}
