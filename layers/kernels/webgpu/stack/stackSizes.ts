import {ROWS_STEP} from '../device/rowsView.ts';
import type {AttentionSettings} from './attendRows.ts';

/** What is computed row by row takes at least this many rows at a time, or as many as take these bytes in float32. */
export const PART = {rows: 8192, bytes: 64 * 2 ** 20};

/** Feed-forward takes a chunk of rows at a time, a multiple of the step, whose gates take about this many bytes. */
const CHUNK_STEP = 16 * ROWS_STEP;
const CHUNK_BYTES = 136 * 2 ** 20;

/**
 * From this many chunks on, backward keeps all five matrices of feed-forward that it writes. With fewer, it would save less
 * time than the results of attention, kept in the same memory.
 */
export const SHARED_WEIGHTS = {leastChunks: 4};

/** Some of the rows. */
export interface Part {
  begin: number;
  count: number;
}

/** Splits a part into smaller ones of `step` rows. */
export const split = ({begin, count}: Part, step: number): Part[] =>
  Array.from({length: Math.ceil(count / step)}, (_, i) => ({
    begin: begin + i * step,
    count: Math.min(step, count - i * step),
  }));

/** Returns how many rows of hidden states of this size are computed at a time: whole chunks of feed-forward, if they fit. */
export function partRows(size: number, chunk: number): number {
  const most = Math.max(PART.rows, Math.floor(PART.bytes / (4 * size * CHUNK_STEP)) * CHUNK_STEP);
  return most < chunk ? most : Math.floor(most / chunk) * chunk;
}

/**
 * Returns how many rows feed-forward takes at a time. Their gates take at least the memory of two weights, because each
 * chunk reads or dequantizes the weights again; and more where blocks keep everything, which takes far more memory.
 */
export function chunkRows(size: number, intermediateSize: number, isCheckpointed: boolean): number {
  const fitting = ((isCheckpointed ? 1 : 2) * CHUNK_BYTES) / (4 * intermediateSize);
  return Math.max(CHUNK_STEP, Math.floor(Math.max(size, fitting) / CHUNK_STEP) * CHUNK_STEP);
}

/** Returns how many weights of feed-forward exist at the same time for this many chunks. */
export const sharedWeights = (chunks: number): {forward: number; backward: number} => ({
  forward: chunks > 1 ? 3 : 1,
  backward: chunks >= SHARED_WEIGHTS.leastChunks ? 5 : 1,
});

/**
 * The most that the results of attention may take to be kept with checkpointing: these bytes for those of all blocks, or
 * this share of what the blocks' inputs take. Below `length` positions the share falls with the square of the length, as
 * does the time to compute them again.
 */
export const KEPT_ATTENTION = {bytes: 544 * 2 ** 20, share: 0.97, length: 8192};

/**
 * Returns how many blocks with checkpointing keep the results of attention, instead of computing them again. The last
 * one always does: it needs them right away, when most memory is in use.
 */
export function blocksKeepingAttention(
  blocks: number,
  size: number,
  {batch, length, heads, headDim}: Pick<AttentionSettings, 'batch' | 'length' | 'heads' | 'headDim'>,
): number {
  const ofToken = heads * (2 * headDim + 4);
  if (batch * length * blocks * ofToken <= KEPT_ATTENTION.bytes) return blocks;
  const share = KEPT_ATTENTION.share * Math.min(1, length / KEPT_ATTENTION.length) ** 2;
  return Math.min(blocks, Math.max(1, Math.floor((share * blocks * 2 * size) / ofToken)));
}
