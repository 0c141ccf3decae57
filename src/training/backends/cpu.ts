import * as tf from '@tensorflow/tfjs';
import {hideCpuBanner} from '../../../layers/hideCpuBanner.ts';
import {registerCpuKernels} from '../../../layers/kernels/cpu/registerCpuKernels.ts';
import type {Backend} from './backend.ts';
import {processor} from './processor.ts';

/**
 * Plain JavaScript on one thread. It runs everywhere, slowly, and is the reference that the others are tested against.
 */
export const cpu: Backend = {
  name: 'cpu',
  async start() {
    registerCpuKernels();
    await tf.setBackend('cpu');
    hideCpuBanner();
    const {model} = await processor();
    return {device: model, features: ['1 thread'], computeDtype: 'float32'};
  },
};
