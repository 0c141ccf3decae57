import type * as tf from '@tensorflow/tfjs';
import type {CachedBlock, DecodeStackOptions, StackBlock, StackProjection} from './stackBlock.ts';
import type {DenseMatrix} from './storedMatrix.ts';

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
