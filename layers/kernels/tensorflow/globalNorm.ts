import type * as tf from '@tensorflow/tfjs';
import {groupedByShape} from './groupedByShape.ts';
import {runOps} from './runOps.ts';
import type {TensorFlowBackend} from './tensorflowBackend.ts';

interface GlobalNormArgs {
  inputs: Record<number, tf.TensorInfo>;
  backend: unknown;
}

/** `GlobalNorm` (layers/ops/globalNorm.ts): small tensors of one shape are summed as one. */
export const globalNorm = {
  kernelName: 'GlobalNorm',
  backendName: 'tensorflow',
  kernelFunc: (args: unknown) => {
    const {inputs, backend} = args as GlobalNormArgs;
    return runOps(backend as TensorFlowBackend, inputs as Record<string, tf.TensorInfo>, (ops, handles) => {
      if (ops.areFusedEverywhere) return ops.fused('GlobalNorm', [], [], 1, Object.values(handles));
      const halves = groupedByShape(Object.values(inputs)).map((places) =>
        ops.scope(() => {
          const parts = places.map((place) => handles[place]);
          return ops.one('L2Loss', [parts.length === 1 ? parts[0] : ops.stack(parts)]); // half the sum of squares
        }),
      );
      return [ops.one('Sqrt', [ops.mul(ops.sum(ops.stack(halves), 0), ops.scalar(2))])];
    })[0];
  },
} as const;
