import type * as tf from '@tensorflow/tfjs';
import type {Op, Tensors} from '../../ops/op.ts';

/** A tensor's memory. */
export type StepArray = Float32Array | Int32Array;

/** An optimizer's update of one weight over plain arrays, for every backend whose memory JavaScript can read. */
export interface OptimizerStep<Settings extends object = object> {
  op: Op<Tensors<string>, Settings, tf.Tensor[]>;
  /** The op's inputs, in the order in which {@link run} takes them. */
  inputs: readonly string[];
  /** The outputs in order; each is named after the input that has its shape and dtype. */
  outputs: readonly string[];
  /** Reads `sources` and fills `targets`. */
  run(sources: StepArray[], targets: StepArray[], settings: Settings): void;
}
