import type * as tf from '@tensorflow/tfjs';
import {replaceKernel, replaceStockKernel} from '../replaceKernel.ts';
import {adamW8bitStep} from '../steps/adamW8bitStep.ts';
import {lion8bitStep} from '../steps/lion8bitStep.ts';
import {lionStep} from '../steps/lionStep.ts';
import {attention, attentionGrad} from './attention/attention.ts';
import {decodeAttention} from './attention/decodeAttention.ts';
import {uploadEarly} from './device/uploadEarly.ts';
import {reshape} from './elementwise/reshape.ts';
import {rmsNorm, rmsNormGrad} from './elementwise/rmsNorm.ts';
import {rotaryEmbedding, rotaryEmbeddingGrad} from './elementwise/rotaryEmbedding.ts';
import {softmaxCrossEntropy} from './elementwise/softmaxCrossEntropy.ts';
import {swiGLU, swiGLUGrad} from './elementwise/swiGLU.ts';
import {transpose} from './elementwise/transpose.ts';
import {adamWUpdate} from './optimizers/adamWUpdate.ts';
import {adamWUpdates} from './optimizers/adamWUpdates.ts';
import {globalNorm} from './optimizers/globalNorm.ts';
import {optimizerKernel} from './optimizers/optimizerKernel.ts';
import {packFlat} from './optimizers/packFlat.ts';
import {unpackFlat} from './optimizers/unpackFlat.ts';
import {loraLinear, loraLinearGrad} from './products/loraLinear.ts';
import {loraMatMul, loraMatMulGrad} from './products/loraMatMul.ts';
import {quantizedMatMul, storedMatMul} from './products/storedMatMul.ts';
import {dequantizeRows} from './weights/dequantizeRows.ts';
import {embedding} from './weights/embedding.ts';
import {pack16} from './weights/pack16.ts';
import {unpack16} from './weights/unpack16.ts';

const KERNELS: tf.KernelConfig[] = [
  ...[adamW8bitStep, lion8bitStep, lionStep].map(optimizerKernel),
  adamWUpdate,
  adamWUpdates,
  attention,
  attentionGrad,
  decodeAttention,
  dequantizeRows,
  embedding,
  globalNorm,
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
  softmaxCrossEntropy,
  storedMatMul,
  swiGLU,
  swiGLUGrad,
  unpack16,
  unpackFlat,
  uploadEarly,
];

/** Registers this library's kernels for the `tensorflow` backend. Calling this again is harmless. */
export function registerTensorFlowKernels(): void {
  for (const kernel of KERNELS) replaceKernel(kernel);
  for (const kernel of [reshape, transpose]) replaceStockKernel(kernel);
}
