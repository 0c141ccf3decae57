import type * as tf from '@tensorflow/tfjs';
import {replaceKernel, replaceStockKernel} from '../replaceKernel.ts';
import {adamW8bitStep} from '../steps/adamW8bitStep.ts';
import {lion8bitStep} from '../steps/lion8bitStep.ts';
import {lionStep} from '../steps/lionStep.ts';
import {adamWUpdate} from './adamWUpdate.ts';
import {adamWUpdates} from './adamWUpdates.ts';
import {attention, attentionGrad} from './attention.ts';
import {decodeAttention} from './decodeAttention.ts';
import {dequantizeRows} from './dequantizeRows.ts';
import {embedding} from './embedding.ts';
import {globalNorm} from './globalNorm.ts';
import {loraLinear, loraLinearGrad} from './loraLinear.ts';
import {loraMatMul, loraMatMulGrad} from './loraMatMul.ts';
import {optimizerKernel} from './optimizerKernel.ts';
import {pack16} from './pack16.ts';
import {reshape} from './reshape.ts';
import {rmsNorm, rmsNormGrad} from './rmsNorm.ts';
import {rotaryEmbedding, rotaryEmbeddingGrad} from './rotaryEmbedding.ts';
import {softmaxCrossEntropy} from './softmaxCrossEntropy.ts';
import {quantizedMatMul, storedMatMul} from './storedMatMul.ts';
import {swiGLU, swiGLUGrad} from './swiGLU.ts';
import {transpose} from './transpose.ts';
import {unpack16} from './unpack16.ts';
import {uploadEarly} from './uploadEarly.ts';

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
  uploadEarly,
];

/** Registers this library's kernels for the `tensorflow` backend. Calling this again is harmless. */
export function registerTensorFlowKernels(): void {
  for (const kernel of KERNELS) replaceKernel(kernel);
  for (const kernel of [reshape, transpose]) replaceStockKernel(kernel);
}
