import type * as tf from '@tensorflow/tfjs';
import {ELEMENT_TYPES, gemmOf} from './native/gemm.ts';
import {offsetOf, type WasmBackend} from './wasmBackend.ts';

interface Unpack16Args {
  inputs: {packed: tf.TensorInfo};
  attrs: {dtype: 'bfloat16' | 'float16'; cols: number};
  backend: unknown;
}

/** `Unpack16` (layers/ops/unpack16.ts), four values at a time. */
export const unpack16 = {
  kernelName: 'Unpack16',
  backendName: 'wasm',
  kernelFunc: (args: unknown) => {
    const {inputs, attrs, backend: anyBackend} = args as Unpack16Args;
    const backend = anyBackend as WasmBackend;
    const [rows, words] = inputs.packed.shape;
    const out = backend.makeOutput([rows, attrs.cols], 'float32');
    const source = offsetOf(backend, inputs.packed);
    const {exports} = gemmOf(backend);
    exports.widen(source, offsetOf(backend, out), rows, attrs.cols, 2 * words, ELEMENT_TYPES[attrs.dtype]);
    return out;
  },
} as const;
