import * as tf from '@tensorflow/tfjs';
import {setBackendTraits} from '../../ops/backendTraits.ts';
import {replaceKernel} from '../replaceKernel.ts';
import {decoderStack, decoderStackGrad} from './card/decoderStack.ts';
import {decodeStack} from './card/decodeStack.ts';
import {linearCrossEntropy} from './card/linearCrossEntropy.ts';
import {chainStarter} from './card/tokenChain.ts';
import {settingsOf, type TensorFlowBackend} from './device/tensorflowBackend.ts';
import {greedyChoice} from './elementwise/greedyChoice.ts';
import {optimizerUpdates} from './optimizers/optimizerUpdates.ts';

const IN_BFLOAT16 = [decodeStack, decoderStack, decoderStackGrad, greedyChoice, linearCrossEntropy];
const KERNELS = [optimizerUpdates, ...IN_BFLOAT16];

/**
 * Registers the kernels that only a card has if its ops can run, and removes them otherwise, so that the composed
 * references run. Kernels that multiply, and chains, also need products in bfloat16. Calling this again is harmless.
 */
export function registerCardKernels(backend: TensorFlowBackend): void {
  const {hasCardOps, products} = settingsOf(backend);
  const multiplies = hasCardOps && products.operands === 'bfloat16';
  for (const kernel of KERNELS) {
    if (multiplies || (hasCardOps && !IN_BFLOAT16.includes(kernel))) replaceKernel(kernel);
    else if (tf.getKernel(kernel.kernelName, kernel.backendName))
      tf.unregisterKernel(kernel.kernelName, kernel.backendName);
  }
  setBackendTraits(backend, {startChain: multiplies ? chainStarter(backend) : undefined});
}
