import type * as tf from '@tensorflow/tfjs';
import type {Op, Tensors} from '../../ops/op.ts';

/** A tensor's memory. */
export type StepArray = Float32Array | Int32Array;

/** An optimizer's update of one weight over plain arrays, for every backend whose memory JavaScript reaches. */
export interface OptimizerStep<Settings extends object = object> {
  op: Op<Tensors<string>, Settings, tf.Tensor[]>;
  /** The op's inputs, in the order {@link run} takes them. */
  inputs: readonly string[];
  /** Outputs in order, each by the input whose shape and dtype it has. */
  outputs: readonly string[];
  /** Fills `targets`, reads `sources`. */
  run(sources: StepArray[], targets: StepArray[], settings: Settings): void;
}
