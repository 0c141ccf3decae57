import * as tf from '@tensorflow/tfjs';
import {replaceKernel, replaceStockKernel} from '../replaceKernel.ts';
import {adamWUpdate} from './adamWUpdate.ts';
import {adamWUpdates} from './adamWUpdates.ts';
import {add} from './add.ts';
import {addN} from './addN.ts';
import {attention, attentionGrad} from './attention.ts';
import {fromBlockwise8bit, toBlockwise8bit} from './blockwise8bit.ts';
import {decodeAttention} from './decodeAttention.ts';
import {dequantizeRows} from './dequantizeRows.ts';
import {embedding} from './embedding.ts';
import {globalNorm} from './globalNorm.ts';
import {greedyChoice} from './greedyChoice.ts';
import {lionUpdate} from './lionUpdate.ts';
import {loraLinear, loraLinearGrad} from './loraLinear.ts';
import {loraMatMul, loraMatMulGrad} from './loraMatMul.ts';
import {pack16} from './pack16.ts';
import {quantizedMatMul} from './quantizedMatMul.ts';
import {rmsNorm, rmsNormGrad} from './rmsNorm.ts';
import {rotaryEmbedding, rotaryEmbeddingGrad} from './rotaryEmbedding.ts';
import {softmaxCrossEntropy} from './softmaxCrossEntropy.ts';
import {storedMatMul} from './storedMatMul.ts';
import {swiGLU, swiGLUGrad} from './swiGLU.ts';
import {transpose} from './transpose.ts';
import {unpack16} from './unpack16.ts';

const KERNELS: tf.KernelConfig[] = [
  adamWUpdate,
  adamWUpdates,
  attention,
  attentionGrad,
  decodeAttention,
  dequantizeRows,
  embedding,
  fromBlockwise8bit,
  globalNorm,
  greedyChoice,
  lionUpdate,
  loraLinear,
  loraLinearGrad,
  loraMatMul,
  loraMatMulGrad,
  pack16,
  quantizedMatMul,
  rmsNorm,
  rmsNormGrad,
  rotaryEmbedding,
  rotaryEmbeddingGrad,
  softmaxCrossEntropy,
  storedMatMul,
  swiGLU,
  swiGLUGrad,
  toBlockwise8bit,
  unpack16,
];

/** Kernels that leave some inputs to the stock kernel, which they are made from. */
const CORRECTED_KERNELS: [string, (stock: tf.KernelFunc) => tf.KernelConfig][] = [
  [tf.Add, add],
  [tf.AddN, addN],
  [tf.Transpose, transpose],
];

/**
 * Registers this library's kernels for the `webgpu` backend. Import `@tensorflow/tfjs-backend-webgpu` before: it
 * registers its own when it loads. Calling this again is harmless.
 */
export function registerWebGPUKernels(): void {
  for (const kernel of KERNELS) replaceKernel(kernel);
  for (const [name, make] of CORRECTED_KERNELS) replaceStockKernel('webgpu', name, make);
}
