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
 * Passes of one new position of each sequence, from a token to the choice of the next by `greedyChoice`. A pass may take what the
 * one before it chose, which the host has not read yet: so the device computes while the host works.
 */
export interface TokenChain {
  /**
   * Starts a pass, whose position goes into the caches.
   *
   * @param past how many positions of the caches count
   * @param positions the row of each sequence in the tables
   * @param tokens one for each sequence. Default what the pass before chose
   */
  run(past: number, positions: number[], tokens?: number[]): void;
  /** Waits for the earliest pass that was not read yet. @returns its choices, one for each sequence */
  read(): tf.TypedArray;
  /** Passes that still run do so to their end. */
  dispose(): void;
}

/** Starts a chain; undefined where there is none for such a model. */
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
 * Starts a {@link TokenChain} where the backend has one for the model, whose tensors must stay as they are.
 *
 * @param caches tensors that passes write to
 * @param options `cos` and `sin` are of all positions that may come, `[1, 1, positions, headDim / 2]`, and `segments` of the
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
