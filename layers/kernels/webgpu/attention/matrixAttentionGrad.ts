import type * as tf from '@tensorflow/tfjs';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';
import type {AttentionGradCall} from './attentionShader.ts';
import {gradKeyValue} from './gradKeyValue.ts';
import {gradOperands} from './gradOperands.ts';
import {gradQuery} from './gradQuery.ts';
import {packSlopes} from './packSlopes.ts';

/**
 * Gradients of query, key and value by subgroup matrices. The incoming gradient is scaled row by row for float16; where
 * rows are added up, each counts with its scale over the largest one. Weights are computed again from the logarithms of
 * their sums.
 */
export function matrixAttentionGrad(backend: WebGPUBackend, call: AttentionGradCall): tf.TensorInfo[] {
  const {dy, y, extra0: logSums} = call.inputs;
  backend.incRef(logSums.dataId);
  const operands = gradOperands(backend, call, packSlopes(backend, dy, y, logSums), logSums);
  const gradients = [gradQuery(backend, call, operands), ...gradKeyValue(backend, call, operands)];
  for (const {dataId} of Object.values(operands)) backend.disposeData(dataId);
  return gradients;
}
