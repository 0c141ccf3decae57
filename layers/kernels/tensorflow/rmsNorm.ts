import type * as tf from '@tensorflow/tfjs';
import {type Ops, runOps} from './runOps.ts';
import type {Handle, TensorFlowBackend} from './tensorflowBackend.ts';

interface RMSNormArgs {
  inputs: {x: tf.TensorInfo; weight: tf.TensorInfo};
  attrs: {epsilon: number};
  backend: unknown;
}

/** `RMSNorm` (layers/ops/rmsNorm.ts). */
export const rmsNorm = {
  kernelName: 'RMSNorm',
  backendName: 'tensorflow',
  kernelFunc: (args: unknown) => {
    const {inputs, attrs, backend} = args as RMSNormArgs;
    return runOps(backend as TensorFlowBackend, inputs, (ops, {x, weight}) => [
      ops.mul(ops.mul(x, inverseRms(ops, x, attrs.epsilon)), weight),
    ])[0];
  },
} as const;

/** Gradient by `x`: `r · (dy·w − x · r² · mean(dy·w · x))` with r the inverse root. */
export const rmsNormGrad = {
  kernelName: 'RMSNormGrad',
  backendName: 'tensorflow',
  kernelFunc: (args: unknown) => {
    const {inputs, attrs, backend} = args as RMSNormArgs & {inputs: {dy: tf.TensorInfo}};
    const {dy, x, weight} = inputs;
    return runOps(backend as TensorFlowBackend, {dy, x, weight}, (ops, handles) => {
      const inverse = inverseRms(ops, handles.x, attrs.epsilon); // [..., 1]
      const weighted = ops.mul(handles.dy, handles.weight);
      const along = ops.mean(ops.mul(weighted, handles.x), x.shape.length - 1, true); // [..., 1]
      const pull = ops.mul(handles.x, ops.mul(along, ops.one('Square', [inverse])));
      return [ops.mul(ops.sub(weighted, pull), inverse)];
    })[0];
  },
} as const;

/** `[..., 1]` */
function inverseRms(ops: Ops, x: Handle, epsilon: number): Handle {
  const meanSquare = ops.mean(ops.one('Square', [x]), x.shape.length - 1, true);
  return ops.one('Rsqrt', [ops.add(meanSquare, ops.scalar(epsilon))]);
}
