import type * as tf from '@tensorflow/tfjs';
import type {LionSettings} from '../../../ops/lionUpdate.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';
import {runUpdate} from '../elementwise/elementwise.ts';

interface LionUpdateArgs {
  inputs: Record<'value' | 'gradient' | 'momentum', tf.TensorInfo>;
  attrs: LionSettings;
  backend: unknown;
}

/** `LionUpdate` (layers/ops/lionUpdate.ts): value and momentum in one pass. */
export const lionUpdate = {
  kernelName: 'LionUpdate',
  backendName: 'webgpu',
  kernelFunc: (args: unknown) => {
    const {inputs, attrs, backend} = args as LionUpdateArgs;
    const {learningRate, beta1, beta2, weightDecay, overwrite = false} = attrs;
    const {value, gradient, momentum} = inputs;
    const body = `
      value[i] = u.keep * value[i] - u.rate * sign(u.beta1 * momentum[i] + u.rest1 * gradient[i]);
      momentum[i] = u.beta2 * momentum[i] + u.rest2 * gradient[i];`;
    return runUpdate(backend as WebGPUBackend, 'LionUpdate', {value, momentum}, {gradient}, body, overwrite, {
      beta1,
      rest1: 1 - beta1,
      beta2,
      rest2: 1 - beta2,
      keep: 1 - learningRate * weightDecay,
      rate: learningRate,
    });
  },
} as const;
