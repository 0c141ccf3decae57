import type * as tf from '@tensorflow/tfjs';

/** A tensor's memory. */
export type StepArray = Float32Array | Int32Array;

/** An optimizer's update of one weight over plain arrays, for every backend whose memory JavaScript reaches. */
export interface OptimizerStep<Settings = never> {
  /** As the op dispatches it. */
  kernelName: string;
  /** The op's inputs, in the order {@link run} takes them. */
  inputs: readonly string[];
  /** Outputs in order, each by the input whose shape and dtype it has. */
  outputs: readonly string[];
  /** Fills `targets`, reads `sources`. */
  run(sources: StepArray[], targets: StepArray[], settings: Settings): void;
}

/** What a kernel made of a step is called with. */
export interface OptimizerKernelArgs {
  inputs: Record<string, tf.TensorInfo>;
  attrs: never;
  backend: unknown;
}
