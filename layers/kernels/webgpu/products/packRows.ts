import type * as tf from '@tensorflow/tfjs';
import {largestOverWorkgroup} from '../device/largestOverWorkgroup.ts';
import {makeHalves, quadAt} from '../device/octets.ts';
import type {RowsView} from '../device/rowsView.ts';
import {runShader} from '../device/runShader.ts';
import {shader} from '../device/shader.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';

/** A matrix as float16, each row scaled by a power of two if it has scales. */
export interface PackedRows {
  /** int32 `[rows, cols / 2]`, two float16 in a word, row by row or in octets. */
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
  inOctets: boolean;
}

export const formatOf = (rows: Rows): RowsFormat =>
  arePacked(rows)
    ? {
        isPacked: true,
        hasScales: rows.scales !== undefined,
        inOctets: rows.halves.inOctets ?? false,
      }
    : {isPacked: false, hasScales: false, inOctets: false};

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
 * @param top the largest magnitudes become 2^top or more, and less than twice that. Default 7
 * @param scales gets the scales. Default a new tensor
 * @param inOctets how the result is stored; see device/octets.ts. Default row by row
 */
export function packRows(
  backend: WebGPUBackend,
  x: RowsView,
  {top = 7, scales, inOctets = false}: {top?: number; scales?: RowsView; inOctets?: boolean} = {},
): PackedTensors {
  const [rows, cols] = x.shape;
  const halves = makeHalves(backend, rows, cols, {inOctets});
  const made = scales ?? backend.makeTensorInfo([rows], 'float32');
  const width = cols % 4 === 0 ? 4 : 2;
  runShader(backend, {
    shader: scaledRows(width, top, inOctets ? cols / width : 0),
    buffers: {halves, scales: made, x},
    uniforms: {rows, vectors: cols / width},
    workgroups: Math.ceil(rows / sharedRows(inOctets)),
  });
  return {halves, scales: made};
}

/** Rows in octets that share a workgroup, so that what its threads store has no gaps. */
const SHARED_ROWS = 4;

/** Returns how many rows share a workgroup of a shader that stores them so. */
export const sharedRows = (inOctets = false): number => (inOctets ? SHARED_ROWS : 1);

/** WGSL for a shader whose workgroup shares `shared` rows of `u.vectors` vectors: its row, and a loop over vectors `c`. */
export const sharingRows = (shared: number) => ({
  row: `if (flatGroup * ${shared}u >= u.rows) { return; }
  let row = min(flatGroup * ${shared}u + local % ${shared}u, u.rows - 1u);
  let at = row * u.vectors;`,
  eachVector: (body: string) =>
    `for (var c = local / ${shared}u; c < u.vectors; c += WORKGROUP / ${shared}u) { ${body} }`,
});

/** @param quads of a row in octets; 0 if the result is stored row by row */
const scaledRows = shader((width: number, top: number, quads: number) => {
  const inOctets = quads > 0;
  const shared = sharedRows(inOctets);
  const {row, eachVector} = sharingRows(shared);
  const isWide = width === 4;
  const [vector, half] = isWide ? (['vec4f', 'vec2u'] as const) : (['vec2f', 'u32'] as const);
  return {
    name: 'PackRows',
    outputs: {halves: half, scales: 'f32'},
    inputs: {x: vector},
    uniforms: {rows: 'u32', vectors: 'u32'},
    workgroup: 256,
    header: 'enable f16;',
    globals: `
${largestOverWorkgroup(256, shared)}
${shiftTo(top)}`,
    body: `
  ${row}
  var largest = ${vector}(0.0);
  ${eachVector('largest = max(largest, abs(x[at + c]));')}
  let shift = shiftOf(largestOverWorkgroup(${isWide ? 'largestOf4(largest)' : 'max(largest.x, largest.y)'}, local));
  let scale = powerOfTwo(shift);
  if (local < ${shared}u) { scales[row] = powerOfTwo(-shift); }
  ${eachVector(`
    halves[${inOctets ? quadAt('row', 'c', quads, true) : 'at + c'}] = bitcast<${half}>(${isWide ? 'vec4' : 'vec2'}<f16>(x[at + c] * scale));
  `)}`,
  };
});
