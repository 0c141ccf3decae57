import {dequantizeRowsOp} from '../../ops/dequantizeRows.ts';
import {kernel} from '../kernel.ts';
import {gemmOf} from './native/gemm.ts';
import {writeQuantized} from './native/quantizedOperand.ts';
import {offsetOf} from './wasmBackend.ts';

/** `DequantizeRows` (layers/ops/dequantizeRows.ts), sixteen values at a time. */
export const dequantizeRows = kernel(dequantizeRowsOp, 'wasm', ({inputs, attrs, backend}) => {
  const {begin, end, cols} = attrs;
  const out = backend.makeOutput([end - begin, cols], 'float32');
  const quantized = writeQuantized(backend, attrs, inputs);
  gemmOf(backend).exports.dequantize(quantized, offsetOf(backend, out), begin, end);
  return out;
});
