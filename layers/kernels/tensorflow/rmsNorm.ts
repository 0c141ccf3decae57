import type * as tf from '@tensorflow/tfjs';
import {runOps} from './runOps.ts';
import type {TensorFlowBackend} from './tensorflowBackend.ts';

interface RMSNormArgs {
  inputs: {x: tf.TensorInfo; weight: tf.TensorInfo};
  attrs: {epsilon: number};
  backend: unknown;
}

/** `RMSNorm` (layers/ops/rmsNorm.ts). Second output: the inverse root `[..., 1]`, for backward. */
export const rmsNorm = {
  kernelName: 'RMSNorm',
  backendName: 'tensorflow',
  kernelFunc: (args: unknown) => {
    const {inputs, attrs, backend} = args as RMSNormArgs;
    return runOps(backend as TensorFlowBackend, inputs, (ops, {x, weight}) => {
      if (ops.areFusedEverywhere)
        return ops.fused('RMSNorm', [x, weight], [ops.floatAttribute('epsilon', attrs.epsilon)], 2);
      const meanSquare = ops.mean(ops.one('Square', [x]), x.shape.length - 1, true); // [..., 1]
      const inverse = ops.one('Rsqrt', [ops.add(meanSquare, ops.scalar(attrs.epsilon))]);
      return [ops.mul(ops.mul(x, inverse), weight), inverse];
    });
  },
} as const;

/** Gradient by `x`: `r · (dy·w − x · r² · mean(dy·w · x))` with r the inverse root. */
export const rmsNormGrad = {
  kernelName: 'RMSNormGrad',
  backendName: 'tensorflow',
  kernelFunc: (args: unknown) => {
    const {inputs, backend} = args as RMSNormArgs & {inputs: Record<'dy' | 'extra0', tf.TensorInfo>};
    return runOps(backend as TensorFlowBackend, inputs, (ops, {dy, x, weight, extra0: inverse}) => {
      if (ops.areFusedEverywhere) return ops.fused('RMSNormGrad', [dy, x, weight, inverse], [], 1);
      const weighted = ops.mul(dy, weight);
      const along = ops.mean(ops.mul(weighted, x), x.shape.length - 1, true); // [..., 1]
      const pull = ops.mul(x, ops.mul(along, ops.one('Square', [inverse])));
      return [ops.mul(ops.sub(weighted, pull), inverse)];
    })[0];
  },
} as const;
