import * as tf from '@tensorflow/tfjs';
import {op, type Tensors} from '../../ops/op.ts';
import {kernel} from '../kernel.ts';
import {ELEMENT_TYPES, gemmOf, type Operand} from './native/gemm.ts';
import {offsetOf, type WasmBackend} from './wasmBackend.ts';

/** Attributes of TensorFlow.js's own kernel, which multiplies the last two axes and broadcasts the others. */
export interface MatMulAttributes {
  transposeA?: boolean;
  transposeB?: boolean;
}

const batchMatMulOp = op<Tensors<'a' | 'b'>, MatMulAttributes>(tf.BatchMatMul);

/**
 * `BatchMatMul`. It replaces the stock kernel, which is fast only for a single product without transposes and
 * keeps a copy of each right-hand side.
 */
export const batchMatMul = kernel(batchMatMulOp, 'wasm', ({inputs, attrs, backend}) =>
  matMul(backend, inputs, attrs),
);

/** Returns `a · b` as a new tensor. */
export function matMul(
  backend: WasmBackend,
  {a, b}: Tensors<'a' | 'b'>,
  attrs: MatMulAttributes,
): tf.TensorInfo {
  if (a.dtype !== 'float32' || b.dtype !== 'float32') {
    throw new Error(`BatchMatMul: expected float32 tensors, got ${a.dtype} and ${b.dtype}.`);
  }
  const left = matrixOf(backend, a, attrs.transposeA);
  const right = matrixOf(backend, b, attrs.transposeB);
  if (left.cols !== right.rows) {
    throw new Error(
      `BatchMatMul: expected equal inner sizes, got ${left.cols} and ${right.rows} (${a.shape} and ${b.shape}, ` +
        `transposeA ${!!attrs.transposeA}, transposeB ${!!attrs.transposeB}).`,
    );
  }
  const batchShape = tf.broadcast_util.assertAndGetBroadcastShape(left.batchShape, right.batchShape);
  const out = backend.makeOutput([...batchShape, left.rows, right.cols], 'float32');
  const c = offsetOf(backend, out);
  const gemm = gemmOf(backend);
  const product = {m: left.rows, n: right.cols, k: left.cols, bType: ELEMENT_TYPES.float32};
  const batch = tf.util.sizeFromShape(batchShape);
  const aBatch = uniformStride(left, batch);
  const bBatch = uniformStride(right, batch);
  if (aBatch !== undefined && bBatch !== undefined) {
    gemm.multiply({
      ...product,
      batch,
      a: {...left.operand, batch: aBatch},
      b: {...right.operand, batch: bBatch},
      c,
    });
    return out;
  }
  for (let i = 0; i < batch; i++) {
    gemm.multiply({
      ...product,
      batch: 1,
      a: operandAt(left, batchShape, i),
      b: operandAt(right, batchShape, i),
      c: c + 4 * i * left.rows * right.cols,
    });
  }
  return out;
}

interface Matrices {
  rows: number;
  cols: number;
  batchShape: number[];
  operand: Operand;
}

function matrixOf(backend: WasmBackend, tensor: tf.TensorInfo, transposed = false): Matrices {
  const {shape} = tensor;
  const [rows, cols] = shape.slice(-2);
  const offset = offsetOf(backend, tensor);
  const batchShape = shape.slice(0, -2);
  return transposed
    ? {rows: cols, cols: rows, batchShape, operand: {offset, row: 1, col: cols, batch: 0}}
    : {rows, cols, batchShape, operand: {offset, row: cols, col: 1, batch: 0}};
}

/** Returns the distance between the matrices of a batch if it is constant: all are stored, or one serves all. */
function uniformStride({rows, cols, batchShape}: Matrices, batch: number): number | undefined {
  const own = tf.util.sizeFromShape(batchShape);
  if (own === batch) return rows * cols;
  return own === 1 ? 0 : undefined;
}

/** Returns the matrix that broadcasting pairs with matrix `index` of the output. */
function operandAt({rows, cols, batchShape, operand}: Matrices, outShape: number[], index: number): Operand {
  let own = 0;
  let stride = 1;
  for (let axis = outShape.length - 1, left = index; axis >= 0; axis--) {
    const position = left % outShape[axis];
    left = Math.floor(left / outShape[axis]);
    const size = batchShape[axis - outShape.length + batchShape.length] ?? 1;
    if (size > 1) own += position * stride;
    stride *= size;
  }
  return {...operand, offset: operand.offset + 4 * own * rows * cols};
}
