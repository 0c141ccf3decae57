import type * as tf from '@tensorflow/tfjs';
import {makeScratch} from '../device/makeScratch.ts';
import type {RowsView} from '../device/rowsView.ts';
import {runShader} from '../device/runShader.ts';
import {shader} from '../device/shader.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';

/** A matrix as float16, each row scaled by a power of two if it has scales. */
export interface PackedRows {
  /** int32 `[rows, cols / 2]`, two float16 in a word. */
  halves: RowsView;
  /** float32 `[rows]`: the factors that restore the elements' values. Default 1. */
  scales?: RowsView;
}

/** Packed rows that are whole tensors, with scales. */
export type PackedTensors = Record<'halves' | 'scales', tf.TensorInfo>;

/** Rows that a shader reads: float32 `[rows, cols]`, or packed. */
export type Rows = RowsView | PackedRows;

const arePacked = (rows: Rows): rows is PackedRows => 'halves' in rows;

/** How a shader reads {@link Rows}, to be put into its declaration. */
export interface RowsFormat {
  isPacked: boolean;
  hasScales: boolean;
}

export const formatOf = (rows: Rows): RowsFormat =>
  arePacked(rows)
    ? {isPacked: true, hasScales: rows.scales !== undefined}
    : {isPacked: false, hasScales: false};

/** Returns the buffers of rows, for shaders that call them `x` and `scales`. */
export const buffersOf = (rows: Rows): {x: RowsView; scales: RowsView | undefined} =>
  arePacked(rows) ? {x: rows.halves, scales: rows.scales} : {x: rows, scales: undefined};

/** Returns the sides of the matrix. */
export function shapeOf(rows: Rows): [rows: number, cols: number] {
  const [count, width] = arePacked(rows) ? rows.halves.shape : rows.shape;
  return [count, arePacked(rows) ? 2 * width : width];
}

/**
 * WGSL that returns the power of two by which to multiply a row, from its largest magnitude, which is then at least
 * 2^top and less than twice that.
 */
export const shiftTo = (top: number): string => `
// The exponent is read from the bits. A row of zeros, infinities or subnormals does not change.
fn shiftOf(largest: f32) -> i32 {
  let exponent = i32(bitcast<u32>(largest) >> 23u) - 127;
  return clamp(select(${top} - exponent, 0, exponent < -119 || exponent > 127), -126, 126);
}
fn powerOfTwo(exponent: i32) -> f32 { return bitcast<f32>(u32(exponent + 127) << 23u); }`;

export const SHIFT = shiftTo(7);

/**
 * Rounds rows to float16 after scaling each so that its largest magnitude is between 2⁷ and 2⁸. Nothing overflows, and
 * numbers 2²¹ times smaller than the row's largest still keep all their bits. Gradients need this, because all of a row
 * may be below float16's smallest.
 *
 * @param x `[rows, cols]` float32, `cols` even. The caller disposes the result.
 * @param top the largest magnitudes become 2^top or more, and less than twice that
 * @param scales gets the scales. Default a new tensor
 */
export function packRows(
  backend: WebGPUBackend,
  x: RowsView,
  top = 7,
  scales: RowsView = backend.makeTensorInfo([x.shape[0]], 'float32'),
): PackedTensors {
  const [rows, cols] = x.shape;
  const halves = makeScratch(backend, [rows, cols / 2], 'int32');
  const isWide = cols % 4 === 0;
  runShader(backend, {
    shader: scaledRows(isWide, top),
    buffers: {halves, scales, x},
    uniforms: {rows, vectors: cols / (isWide ? 4 : 2)},
    workgroups: rows,
  });
  return {halves, scales};
}

const scaledRows = shader((isWide: boolean, top: number) => {
  const [vector, half] = isWide ? (['vec4f', 'vec2u'] as const) : (['vec2f', 'u32'] as const);
  return {
    name: 'PackRows',
    outputs: {halves: half, scales: 'f32'},
    inputs: {x: vector},
    uniforms: {rows: 'u32', vectors: 'u32'},
    workgroup: 256,
    header: 'enable f16;',
    globals: `
var<workgroup> maxima: array<f32, WORKGROUP>;
${shiftTo(top)}`,
    body: `
  let row = flatGroup;
  if (row >= u.rows) { return; }
  let at = row * u.vectors;
  var largest = ${vector}(0.0);
  for (var c = local; c < u.vectors; c += WORKGROUP) { largest = max(largest, abs(x[at + c])); }
  maxima[local] = ${isWide ? 'max(max(largest.x, largest.y), max(largest.z, largest.w))' : 'max(largest.x, largest.y)'};
  workgroupBarrier();
  for (var width = WORKGROUP / 2u; width > 0u; width /= 2u) {
    if (local < width) { maxima[local] = max(maxima[local], maxima[local + width]); }
    workgroupBarrier();
  }
  let shift = shiftOf(maxima[0]);
  let scale = powerOfTwo(shift);
  if (local == 0u) { scales[row] = powerOfTwo(-shift); }
  for (var c = local; c < u.vectors; c += WORKGROUP) {
    halves[at + c] = bitcast<${half}>(${isWide ? 'vec4' : 'vec2'}<f16>(x[at + c] * scale));
  }`,
  };
});
