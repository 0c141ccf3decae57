import * as tf from '@tensorflow/tfjs';
import {makeScratch} from './makeScratch.ts';
import type {RowsView} from './rowsView.ts';
import {capabilitiesOf, type WebGPUBackend} from './webgpuBackend.ts';

/**
 * Float16 rows are stored row by row or, with {@link RowsView.inOctets}, octet by octet: in each block of 128 rows first
 * the first eight numbers of every row, then the next eight, and so on. A product's tile of 128 rows by 8 numbers is
 * then 2 KiB without gaps. The last block is padded with rows of any content; it never reaches results of other rows.
 */
export const BLOCK = 128;

/** A row of octets has a multiple of this many numbers. */
export const OCTETS_STEP = 32;

/** With fewer rows, transposing a weight costs more than the faster product saves. */
export const OCTETS = {leastRows: 2048};

/** Whether products read this many rows of these widths faster in octets, with weights that fit a buffer in float16. */
export function usesOctets(backend: WebGPUBackend, rows: number, widths: number[]): boolean {
  const {hasMatrices, computeDtype} = capabilitiesOf(backend);
  const isMatched = hasMatrices && computeDtype === 'float16' && rows >= OCTETS.leastRows;
  const [widest, second] = [...widths].sort((a, b) => b - a);
  const areBindable = 2 * widest * second <= backend.device.limits.maxStorageBufferBindingSize;
  return isMatched && areBindable && widths.every((width) => width % OCTETS_STEP === 0);
}

/**
 * Makes a tensor for float16 `[rows, cols]` in octets; `cols` is a multiple of {@link OCTETS_STEP}.
 *
 * @param isKept see {@link makeScratch}
 */
export function makeOctets(
  backend: WebGPUBackend,
  rows: number,
  cols: number,
  isKept = false,
): tf.TensorInfo & RowsView {
  const scratch = makeScratch(backend, [padded(rows), cols / 2], 'int32', isKept);
  return {...scratch, shape: [rows, cols / 2], inOctets: true};
}

/** Makes a tensor for float16 `[rows, cols]`, row by row or in octets; see {@link makeOctets}. */
export const makeHalves = (
  backend: WebGPUBackend,
  rows: number,
  cols: number,
  {inOctets = false, isKept = false}: {inOctets?: boolean; isKept?: boolean} = {},
): tf.TensorInfo & RowsView =>
  inOctets
    ? makeOctets(backend, rows, cols, isKept)
    : makeScratch(backend, [rows, cols / 2], 'int32', isKept);

/** Returns the number of 4-byte numbers in a view, with padding. */
export const sizeOf = ({shape: [rows, ...rest], inOctets}: RowsView): number =>
  (inOctets ? padded(rows) : (rows ?? 1)) * tf.util.sizeFromShape(rest);

/** Returns a whole tensor, with its padding, as a plain one, which others may copy or count by its shape. */
export const wholeOf = ({dataId, dtype, shape: [rows, ...rest], inOctets}: RowsView): tf.TensorInfo => ({
  dataId,
  dtype,
  shape: [inOctets ? padded(rows) : rows, ...rest],
});

const padded = (rows: number) => BLOCK * Math.ceil(rows / BLOCK);

/** Throws if rows are in octets, for a kernel that reads them row by row. */
export function refuseOctets(kernel: string, ...rows: (RowsView | undefined)[]): void {
  if (rows.some((each) => each?.inOctets)) throw new Error(`${kernel}: expected rows, got octets.`);
}

/** WGSL of the index, among vectors of eight numbers, of vector `octet` of a row that has `octets` of them. */
export const octetAt = (row: string, octet: string, octets: number, inOctets = false): string =>
  inOctets
    ? `((${row}) / ${BLOCK}u * ${BLOCK * octets}u + (${octet}) * ${BLOCK}u + (${row}) % ${BLOCK}u)`
    : `((${row}) * ${octets}u + ${octet})`;

/**
 * WGSL of the place, in a tile of `rows` by `cols` vectors, of a thread's vector `i` when threads share the tile:
 * neighbours in memory for neighbouring threads.
 */
export const placeInTile = (
  {rows, cols, threads, inOctets}: {rows: number; cols: number; threads: number; inOctets: boolean},
  i: number,
): {row: string; col: string} =>
  inOctets
    ? {row: `local % ${rows}u`, col: `local / ${rows}u + ${(i * threads) / rows}u`}
    : {row: `local / ${cols}u + ${(i * threads) / cols}u`, col: `local % ${cols}u`};

/** WGSL of the index, among vectors of four numbers, of vector `quad` of a row that has `quads` of them. */
export const quadAt = (row: string, quad: string, quads: number, inOctets = false): string =>
  inOctets
    ? `(${octetAt(row, `(${quad}) / 2u`, quads / 2, true)} * 2u + (${quad}) % 2u)`
    : `((${row}) * ${quads}u + ${quad})`;
