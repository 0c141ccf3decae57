import * as tf from '@tensorflow/tfjs';
import {op, type Tensors} from '../../ops/op.ts';
import {kernel} from '../kernel.ts';
import {type MatMulAttributes, matMul} from './batchMatMul.ts';
import {offsetOf} from './wasmBackend.ts';

const fusedMatMulOp = op<
  Tensors<'a' | 'b'> & Partial<Tensors<'bias' | 'preluActivationWeights'>>,
  MatMulAttributes & {activation?: string; leakyreluAlpha?: number}
>(tf._FusedMatMul);

/**
 * `_FusedMatMul`. It replaces the stock kernel, which is slow for all shapes but one and keeps a copy of each
 * right-hand side. TensorFlow.js runs it for dense layers outside training.
 */
export const fusedMatMul = kernel(fusedMatMulOp, 'wasm', ({inputs, attrs, backend}) => {
  const {bias, preluActivationWeights: slopes} = inputs;
  const activate = activationOf(attrs.activation ?? 'linear', attrs.leakyreluAlpha ?? 0.2);
  const [rowsOfB, colsOfB] = inputs.b.shape.slice(-2);
  const cols = attrs.transposeB ? rowsOfB : colsOfB;
  for (const operand of [bias, slopes]) {
    const size = operand && tf.util.sizeFromShape(operand.shape);
    if (size !== undefined && size !== cols && size !== 1) {
      throw new Error(`_FusedMatMul: expected a bias or slope of ${cols} values or 1, got ${size}.`);
    }
  }
  const out = matMul(backend, inputs, attrs);
  const view = (tensor: tf.TensorInfo) =>
    new Float32Array(
      backend.wasm.HEAPU8.buffer,
      offsetOf(backend, tensor),
      tf.util.sizeFromShape(tensor.shape),
    );
  const values = view(out);
  const biasValues = bias && view(bias);
  const slopeValues = slopes && view(slopes);
  for (let i = 0; i < values.length; i++) {
    const col = i % cols;
    const biased = values[i] + (biasValues ? biasValues[biasValues.length === 1 ? 0 : col] : 0);
    values[i] = activate(biased, slopeValues ? slopeValues[slopeValues.length === 1 ? 0 : col] : 0);
  }
  return out;
});

function activationOf(name: string, leakyReluAlpha: number): (x: number, slope: number) => number {
  switch (name) {
    case 'linear':
      return (x) => x;
    case 'relu':
      return (x) => (x < 0 ? 0 : x);
    case 'relu6':
      return (x) => (x < 0 ? 0 : x > 6 ? 6 : x);
    case 'sigmoid':
      return (x) => 1 / (1 + Math.exp(-x));
    case 'elu':
      return (x) => (x < 0 ? Math.expm1(x) : x);
    case 'leakyrelu':
      return (x) => (x < 0 ? leakyReluAlpha * x : x);
    case 'prelu':
      return (x, slope) => (x < 0 ? slope * x : x);
    default:
      throw new Error(`_FusedMatMul: expected a known activation, got ${name}.`);
  }
}
