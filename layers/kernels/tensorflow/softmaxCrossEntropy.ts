import type * as tf from '@tensorflow/tfjs';
import {runOps} from './runOps.ts';
import {DataType, type TensorFlowBackend} from './tensorflowBackend.ts';

interface SoftmaxCrossEntropyArgs {
  inputs: {logits: tf.TensorInfo; labels: tf.TensorInfo};
  attrs: {ignoreIndex: number};
  backend: unknown;
}

/** `SoftmaxCrossEntropy` (layers/ops/softmaxCrossEntropy.ts): TensorFlow has the loss and its gradient as one op. */
export const softmaxCrossEntropy = {
  kernelName: 'SoftmaxCrossEntropy',
  backendName: 'tensorflow',
  kernelFunc: (args: unknown) => {
    const {inputs, attrs, backend} = args as SoftmaxCrossEntropyArgs;
    const [rows, vocab] = inputs.logits.shape;
    return runOps(backend as TensorFlowBackend, inputs, (ops, {logits, labels}) => {
      if (rows === 0) {
        return [ops.constant([0], new Float32Array(0)), ops.constant([0, vocab], new Float32Array(0))];
      }
      const isCounted = ops.one('NotEqual', [labels, ops.integer(attrs.ignoreIndex)]);
      const counted = ops.cast(isCounted, DataType.float32); // [N]
      const target = ops.one('Maximum', [labels, ops.integer(0)]);
      const [losses, gradient] = ops.run('SparseSoftmaxCrossEntropyWithLogits', [logits, target], [], 2);
      return [ops.mul(losses, counted), ops.mul(gradient, ops.reshape(counted, [rows, 1]))];
    });
  },
} as const;
