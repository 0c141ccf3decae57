import type * as tf from '@tensorflow/tfjs';
import type {StorageDtype} from '../../../quant/float16.ts';
import {ELEMENT_TYPES, gemmOf} from './native/gemm.ts';
import {offsetOf, type WasmBackend} from './wasmBackend.ts';

interface StoredMatMulArgs {
  inputs: {x: tf.TensorInfo; weight: tf.TensorInfo};
  attrs: {dtype: StorageDtype; rows: number; cols: number; transposeWeight: boolean};
  backend: unknown;
}

/** `StoredMatMul` (layers/ops/storedMatMul.ts): the weight is widened panel by panel inside the product. */
export const storedMatMul = {
  kernelName: 'StoredMatMul',
  backendName: 'wasm',
  kernelFunc: (args: unknown) => {
    const {inputs, attrs, backend: anyBackend} = args as StoredMatMulArgs;
    const backend = anyBackend as WasmBackend;
    const {dtype, rows, cols, transposeWeight} = attrs;
    const [m] = inputs.x.shape;
    const [k, n] = transposeWeight ? [cols, rows] : [rows, cols];
    const out = backend.makeOutput([m, n], 'float32');
    const stride = dtype === 'float32' ? cols : 2 * Math.ceil(cols / 2);
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
  },
} as const;
