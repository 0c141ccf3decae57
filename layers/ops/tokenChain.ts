import * as tf from '@tensorflow/tfjs';
import {type CachedBlock, type DecodeStackOptions, fitsDecodeKernel} from './decodeStack.ts';
import type {StackBlock, StackProjection} from './stackBlock.ts';
import {type DenseMatrix, fits16BitKernels} from './storedMatrix.ts';

/** The weights of a whole model, all frozen. */
export interface ChainedModel {
  table: DenseMatrix;
  blocks: StackBlock[];
  /** The last norm, `[C]`. */
  norm: tf.Tensor;
  head: StackProjection;
}

/**
 * Passes of one new position of each sequence, from a token to the next one chosen by `greedyChoice`. A pass may take
 * the choice of the pass before it although the host has not read it yet, so the device computes while the host works.
 */
export interface TokenChain {
  /**
   * Starts a pass, which writes its position into the caches.
   *
   * @param past number of positions in the caches
   * @param positions each sequence's row in the tables
   * @param tokens one for each sequence. Default the choice of the pass before
   */
  run(past: number, positions: number[], tokens?: number[]): void;
  /** Waits for the earliest pass that was not read yet. @returns its choices, one for each sequence */
  read(): tf.TypedArray;
  /** Ends the chain. Passes that are still running finish. */
  dispose(): void;
}

/** Starts a chain; returns undefined if the backend has none for such a model. */
export type ChainStarter = (
  model: ChainedModel,
  caches: CachedBlock[],
  options: DecodeStackOptions,
) => TokenChain | undefined;

/** By backend, where one has chains. */
export const chainStarters = new WeakMap<object, ChainStarter>();

/** Whether the active backend has chains. */
export function canChain(): boolean {
  return chainStarters.has(tf.backend());
}

/**
 * Starts a {@link TokenChain} if the backend has one for the model. The model's tensors must not change.
 *
 * @param caches tensors that passes write to
 * @param options `cos` and `sin` cover all positions to come, `[1, 1, positions, headDim / 2]`, and `segments` the
 *   caches' whole capacity
 */
export function startTokenChain(
  model: ChainedModel,
  caches: CachedBlock[],
  options: DecodeStackOptions,
): TokenChain | undefined {
  const {blocks, table, head} = model;
  const isFit =
    fitsDecodeKernel(blocks, options, caches[0].keys.shape[0]) &&
    fits16BitKernels(table) &&
    fits16BitKernels(head.weight);
  return isFit ? chainStarters.get(tf.backend())?.(model, caches, options) : undefined;
}
