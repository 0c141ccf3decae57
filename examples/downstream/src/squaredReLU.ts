import * as tf from '@tensorflow/tfjs';
import {customGradient, dispatch, kernel, op, type Tensors} from 'tfjs-lora/layers';

/** The declaration of the op, by which kernels are typed. */
export const squaredReLUOp = op<Tensors<'x'>>('ExtrasSquaredReLU');

/**
 * `max(0, x)²`, for any shape. So et al. 2021, https://arxiv.org/abs/2109.08668.
 *
 * @param x any shape, float32
 * @returns the same shape
 */
export function squaredReLU(x: tf.Tensor): tf.Tensor {
  return customGradient(
    [x],
    () => ({value: dispatch(squaredReLUOp, {x}, {}, () => tf.square(tf.relu(x))), saved: [x]}),
    (dy, [savedX]) => [tf.mul(dy, tf.mul(tf.relu(savedX), 2))],
  );
}

/** The op in one pass on `cpu`; the other backends compute the formula above. */
tf.registerKernel(
  kernel(squaredReLUOp, 'cpu', ({inputs: {x}, backend}) => {
    const values = backend.data.get(x.dataId).values as Float32Array;
    const squares = values.map((value) => (value > 0 ? value * value : 0));
    return backend.makeTensorInfo(x.shape, 'float32', squares);
  }),
);
