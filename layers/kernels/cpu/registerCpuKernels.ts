import type * as tf from '@tensorflow/tfjs';
import {replaceKernel} from '../replaceKernel.ts';
import {OPTIMIZER_STEPS} from '../steps/optimizerSteps.ts';
import {dequantizeRows} from './dequantizeRows.ts';
import {optimizerKernel} from './optimizerKernel.ts';
import {unpack16} from './unpack16.ts';

const KERNELS: tf.KernelConfig[] = [...OPTIMIZER_STEPS.map(optimizerKernel), dequantizeRows, unpack16];

/** Registers this library's kernels for the `cpu` backend. Calling this again is harmless. */
export function registerCpuKernels(): void {
  for (const kernel of KERNELS) replaceKernel(kernel);
}
