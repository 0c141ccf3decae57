import type * as tf from '@tensorflow/tfjs';
import {typed} from '../device/shader.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';
import type {AttentionCall, AttentionKind} from './attentionShader.ts';
import {LOG2E, packHeads} from './matrixAttention.ts';
import {largestOf, type PackedSlopes} from './packSlopes.ts';

/** The operands of `gradQuery` and `gradKeyValue`: packed rows, and the scales of the slopes' rows. */
export interface GradOperands {
  query: tf.TensorInfo;
  key: tf.TensorInfo;
  value: tf.TensorInfo;
  slopes: tf.TensorInfo;
  logSums: tf.TensorInfo;
  rowTerms: tf.TensorInfo;
  scales: tf.TensorInfo;
  largest: tf.TensorInfo;
}

/** Returns the operands, which the caller disposes; the slopes and `logSums` are among them. */
export function gradOperands(
  backend: WebGPUBackend,
  call: AttentionCall,
  {halves: slopes, scales, rowTerms}: PackedSlopes,
  logSums: tf.TensorInfo,
): GradOperands {
  const [query, key, value] = packHeads(backend, call);
  return {query, key, value, slopes, logSums, rowTerms, scales, largest: largestOf(backend, scales)};
}

/** The packed rows among the inputs of both shaders. */
export const PACKED = typed(['query', 'key', 'value', 'slopes'], 'vec4u');

/**
 * Number of parts in which slopes are summed in float16. A change of a score is a small difference of slopes: with sums of
 * 128 products, the gradients' largest error is 2.7e-3, with two of 64 it is 1.2e-3.
 */
export const partsOf = (dim: number): number => Math.ceil(dim / 64);

/** WGSL of four changes of scores. */
export const changes = (weight: string, slope: string, along: string, factor: string): string =>
  `${weight} * (${slope} - ${along})${factor}`;

/** WGSL for the factor on the slopes of four bounded scores; see `slopeOfBound`. */
export const factorOf = ({isCapped}: AttentionKind, scores: string): string =>
  isCapped ? ` * slopeOfCap(${scores}, u.softCap * ${LOG2E})` : '';
