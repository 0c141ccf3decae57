import type * as tf from '@tensorflow/tfjs';

/** What a rank has computed of a window, or all ranks together. */
export interface WindowSums {
  /** Sums of gradients by the weight's key. */
  gradients: tf.NamedTensorMap;
  /** Parts of the window's loss, which add up to it. */
  losses: tf.Scalar[];
}

/** What {@link Ranks.sumGradients} returns. */
export interface SharedSums extends WindowSums {
  /** For {@link Ranks.follow}, which needs their values. */
  stopped: tf.Scalar[];
}

/**
 * The processes that train one model together, each called a rank. All of them go through the same data in the same
 * order, and make the same calls here in the same order.
 */
export interface Ranks {
  readonly size: number;
  readonly rank: number;
  /** Whether this is the rank that writes files, logs and shows progress. */
  readonly isFirst: boolean;
  /** Returns the items that this rank computes: those at `rank`, `rank + size`, … */
  share<T>(items: readonly T[]): T[];
  /** Adds up gradients and losses over the ranks, and disposes those given. */
  sumGradients(own: WindowSums): Promise<SharedSums>;
  /** Stops this rank if any rank was stopped before {@link sumGradients}, which returned `stopped`. */
  follow(stopped: number[]): void;
  /** Adds up numbers over the ranks, in float32. */
  sum(numbers: number[]): Promise<number[]>;
  /** Returns every rank's text. */
  gather(text: string): Promise<string[]>;
  /**
   * Returns a signal that is aborted after the same {@link follow}, {@link sum} or {@link gather} on all ranks, once the
   * given signal of any rank is.
   */
  agreed(signal: AbortSignal | undefined): AbortSignal | undefined;
}

/** A process on its own. */
const oneRank: Ranks = {
  size: 1,
  rank: 0,
  isFirst: true,
  share: (items) => [...items],
  sumGradients: async (own) => ({...own, stopped: []}),
  follow: () => {},
  sum: async (numbers) => numbers,
  gather: async (text) => [text],
  agreed: (signal) => signal,
};

let current = oneRank;

/** Returns the ranks that this process trains with: itself alone, unless `joinCluster` was called. */
export const ranks = (): Ranks => current;

/** Sets the ranks of this process. */
export function setRanks(next: Ranks): void {
  current = next;
}
