import type * as tf from '@tensorflow/tfjs';

/** Values of a tensor on the host. */
export interface HostValues {
  shape: number[];
  dtype: 'int32' | 'float32';
  values: tf.TypedArray;
}

/** The loss of a training pass, split into what it reads of the batch and what it computes, so that it can be recorded. */
export interface LossPass {
  /** Describes everything that the pass depends on besides the values of `inputs`. */
  key: string;
  /** The tensors that change from batch to batch, by name. */
  inputs: Record<string, HostValues>;
  /** Makes the tensors that stay the same for every batch of the same `key`, by name. */
  constants(): Record<string, tf.Tensor>;
  /** Sums the loss from tensors of `inputs` and `constants`; see `CausalLM.lossSum`. */
  loss(tensors: Record<string, tf.Tensor>): tf.Scalar;
}
