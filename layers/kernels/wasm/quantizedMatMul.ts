import {quantizedMatMulOp} from '../../ops/quantizedMatMul.ts';
import {kernel} from '../kernel.ts';
import {ELEMENT_TYPES, gemmOf} from './native/gemm.ts';
import {writeQuantized} from './native/quantizedOperand.ts';
import {offsetOf} from './wasmBackend.ts';

/** `QuantizedMatMul` (layers/ops/quantizedMatMul.ts): the weight is dequantized panel by panel inside the product. */
export const quantizedMatMul = kernel(quantizedMatMulOp, 'wasm', ({inputs, attrs, backend}) => {
  const {rows, cols, transposeWeight} = attrs;
  const [m] = inputs.x.shape;
  const [k, n] = transposeWeight ? [cols, rows] : [rows, cols];
  const out = backend.makeOutput([m, n], 'float32');
  gemmOf(backend).multiply({
    m,
    n,
    k,
    batch: 1,
    a: {offset: offsetOf(backend, inputs.x), row: k, col: 1, batch: 0},
    b: {offset: 0, row: transposeWeight ? 1 : cols, col: transposeWeight ? cols : 1, batch: 0},
    bType: ELEMENT_TYPES.float32,
    c: offsetOf(backend, out),
    quantized: writeQuantized(backend, attrs, inputs),
  });
  return out;
});
