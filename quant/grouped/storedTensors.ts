import type {TensorSource} from '../bitsandbytesState.ts';
import {TfjsLoraError} from '../errors.ts';
import {fromFloat32, type StorageDtype} from '../float16.ts';
import {FILE_DTYPES, FLOAT_DTYPES} from '../safetensors/floatDtypes.ts';
import type {SafetensorsDtype} from '../safetensors/safetensorsDtype.ts';
import {toFloat32} from '../safetensors/toFloat32.ts';
import type {TensorToWrite} from '../safetensors/writeSafetensors.ts';

/** Returns the name of a tensor beside a weight: `….q_proj.weight` → `….q_proj.scales`. */
export const beside = (name: string, tensor: string): string => name.replace(/weight$/, tensor);

/**
 * Reads an int32 tensor.
 *
 * @param dims its number of dimensions
 */
export function readWords(
  source: TensorSource,
  key: string,
  dims: 1 | 2,
): {words: Int32Array; shape: number[]} {
  const {dtype, shape} = source.info(key);
  if (dtype !== 'I32' || shape.length !== dims)
    throw mismatch(key, `I32 of ${dims} dimensions`, dtype, shape);
  const bytes = source.read(key);
  const aligned = bytes.byteOffset % 4 === 0 ? bytes : bytes.slice();
  return {words: new Int32Array(aligned.buffer, aligned.byteOffset, aligned.length / 4), shape: [...shape]};
}

/** Reads scales of any shape. */
export function readScales(source: TensorSource, key: string): Required<Scales> {
  const {dtype, shape} = source.info(key);
  const scaleDtype = FLOAT_DTYPES[dtype];
  if (scaleDtype === undefined) throw mismatch(key, 'F16, BF16 or F32', dtype, shape);
  return {values: toFloat32(source.read(key), dtype, key), dtype: scaleDtype, shape: [...shape]};
}

/** Makes a file's tensor of scales. */
export const scaleTensor = (name: string, {values, dtype, shape}: Scales): TensorToWrite => ({
  name,
  dtype: FILE_DTYPES[dtype],
  shape: [...shape],
  data: fromFloat32(values, dtype),
});

export interface Scales {
  values: Float32Array;
  dtype: StorageDtype;
  shape: readonly number[];
}

/** @throws TfjsLoraError `SHAPE_MISMATCH` when a tensor has another shape */
export function assertTensorShape(key: string, shape: readonly number[], expected: readonly number[]): void {
  if (shape.join() === expected.join()) return;
  throw new TfjsLoraError('SHAPE_MISMATCH', `Tensor ${key}: expected [${expected}], got [${shape}].`);
}

/** Reads tensors that are only kept, to be saved again; absent ones are left out. */
export const keptTensors = (source: TensorSource, keys: readonly string[]): TensorToWrite[] =>
  keys
    .filter((key) => source.has(key))
    .map((name) => {
      const {dtype, shape} = source.info(name);
      return {name, dtype, shape: [...shape], data: source.read(name).slice()};
    });

/** Returns a matrix's transpose: `[rows, cols]` → `[cols, rows]`. */
export function transposed<T extends Int32Array | Float32Array | Uint8Array>(
  from: T,
  rows: number,
  cols: number,
): T {
  const to = from.slice() as T;
  for (let row = 0; row < rows; row++)
    for (let col = 0; col < cols; col++) to[col * rows + row] = from[row * cols + col];
  return to;
}

function mismatch(
  key: string,
  expected: string,
  dtype: SafetensorsDtype,
  shape: readonly number[],
): TfjsLoraError {
  return new TfjsLoraError('SHAPE_MISMATCH', `Tensor ${key}: expected ${expected}, got ${dtype} [${shape}].`);
}
