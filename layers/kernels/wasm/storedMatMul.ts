import {storedMatMulOp} from '../../ops/storedMatMul.ts';
import {kernel} from '../kernel.ts';
import {ELEMENT_TYPES, gemmOf} from './native/gemm.ts';
import {offsetOf} from './wasmBackend.ts';

/** `StoredMatMul` (layers/ops/storedMatMul.ts): the weight is widened panel by panel inside the product. */
export const storedMatMul = kernel(storedMatMulOp, 'wasm', ({inputs, attrs, backend}) => {
  const {dtype, rows, cols, transposeWeight} = attrs;
  const [m] = inputs.x.shape;
  const [k, n] = transposeWeight ? [cols, rows] : [rows, cols];
  const out = backend.makeOutput([m, n], 'float32');
  const stride = 2 * Math.ceil(cols / 2);
  gemmOf(backend).multiply({
    m,
    n,
    k,
    batch: 1,
    a: {offset: offsetOf(backend, inputs.x), row: k, col: 1, batch: 0},
    b: {
      offset: offsetOf(backend, inputs.weight),
      row: transposeWeight ? 1 : stride,
      col: transposeWeight ? stride : 1,
      batch: 0,
    },
    bType: ELEMENT_TYPES[dtype],
    c: offsetOf(backend, out),
  });
  return out;
});
