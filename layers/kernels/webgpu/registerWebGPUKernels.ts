import * as tf from '@tensorflow/tfjs';
import {replaceKernel, replaceStockKernel} from '../replaceKernel.ts';
import {attention, attentionGrad} from './attention/attention.ts';
import {decodeAttention} from './attention/decodeAttention.ts';
import {add} from './elementwise/add.ts';
import {addN} from './elementwise/addN.ts';
import {greedyChoice} from './elementwise/greedyChoice.ts';
import {rmsNorm, rmsNormGrad} from './elementwise/rmsNorm.ts';
import {rotaryEmbedding, rotaryEmbeddingGrad} from './elementwise/rotaryEmbedding.ts';
import {scaleRows} from './elementwise/scaleRows.ts';
import {softmaxCrossEntropy} from './elementwise/softmaxCrossEntropy.ts';
import {swiGLU, swiGLUGrad} from './elementwise/swiGLU.ts';
import {transpose} from './elementwise/transpose.ts';
import {adamWUpdate} from './optimizers/adamWUpdate.ts';
import {adamWUpdates} from './optimizers/adamWUpdates.ts';
import {fromBlockwise8bit, toBlockwise8bit} from './optimizers/blockwise8bit.ts';
import {globalNorm} from './optimizers/globalNorm.ts';
import {gradientFactor} from './optimizers/gradientFactor.ts';
import {lionUpdate} from './optimizers/lionUpdate.ts';
import {packFlat} from './optimizers/packFlat.ts';
import {unpackFlat} from './optimizers/unpackFlat.ts';
import {loraLinear, loraLinearGrad} from './products/loraLinear.ts';
import {loraMatMul, loraMatMulGrad} from './products/loraMatMul.ts';
import {quantizedMatMul} from './products/quantizedMatMul.ts';
import {storedMatMul} from './products/storedMatMul.ts';
import {decoderStack, decoderStackGrad} from './stack/decoderStack.ts';
import {decodeStack} from './stack/decodeStack.ts';
import {linearCrossEntropy} from './stack/linearCrossEntropy.ts';
import {rmsNormOver, rmsNormOverGrad} from './stack/rmsNormOver.ts';
import {dequantizeRows} from './weights/dequantizeRows.ts';
import {embedding} from './weights/embedding.ts';
import {pack16} from './weights/pack16.ts';
import {unpack16} from './weights/unpack16.ts';

const KERNELS: tf.KernelConfig[] = [
  adamWUpdate,
  adamWUpdates,
  attention,
  attentionGrad,
  decodeAttention,
  decodeStack,
  dequantizeRows,
  embedding,
  fromBlockwise8bit,
  globalNorm,
  gradientFactor,
  greedyChoice,
  lionUpdate,
  loraLinear,
  loraLinearGrad,
  loraMatMul,
  loraMatMulGrad,
  pack16,
  packFlat,
  quantizedMatMul,
  rmsNorm,
  rmsNormGrad,
  rotaryEmbedding,
  rotaryEmbeddingGrad,
  scaleRows,
  softmaxCrossEntropy,
  storedMatMul,
  swiGLU,
  swiGLUGrad,
  toBlockwise8bit,
  unpack16,
  unpackFlat,
];

/** Kernels that compute in float16. */
const IN_FLOAT16 = [decoderStack, decoderStackGrad, linearCrossEntropy, rmsNormOver, rmsNormOverGrad];

/** Kernels made from the stock kernel, which runs some inputs. */
const FASTER_KERNELS = [add, addN, transpose];

/**
 * Registers this library's kernels for the `webgpu` backend. Import `@tensorflow/tfjs-backend-webgpu` first, because it
 * registers its own when it loads. Calling this again is harmless.
 *
 * @param computeDtype the type of products; kernels of another type are removed
 */
export function registerWebGPUKernels(computeDtype: 'float16' | 'float32'): void {
  for (const kernel of KERNELS) replaceKernel(kernel);
  for (const kernel of FASTER_KERNELS) replaceStockKernel(kernel);
  for (const kernel of IN_FLOAT16) {
    const {kernelName, backendName} = kernel;
    if (computeDtype === 'float16') replaceKernel(kernel);
    else if (tf.getKernel(kernelName, backendName)) tf.unregisterKernel(kernelName, backendName);
  }
}
