import * as tf from '@tensorflow/tfjs';
import {replaceKernel} from '../replaceKernel.ts';
import {decoderStack, decoderStackGrad} from './decoderStack.ts';
import {decodeStack} from './decodeStack.ts';
import {greedyChoice} from './greedyChoice.ts';
import {linearCrossEntropy} from './linearCrossEntropy.ts';
import {hasCardOps, productsOf, type TensorFlowBackend} from './tensorflowBackend.ts';

const KERNELS = [decodeStack, decoderStack, decoderStackGrad, greedyChoice, linearCrossEntropy];

/**
 * Registers the kernels that only a card has, where its ops run and products are in bfloat16; elsewhere takes them away, so that
 * the composed references run. Calling this again is harmless.
 */
export function registerCardKernels(backend: TensorFlowBackend): void {
  const isOn = hasCardOps(backend) && productsOf(backend).operands === 'bfloat16';
  for (const kernel of KERNELS) {
    if (isOn) replaceKernel(kernel);
    else if (tf.getKernel(kernel.kernelName, kernel.backendName))
      tf.unregisterKernel(kernel.kernelName, kernel.backendName);
  }
}
