import type * as tf from '@tensorflow/tfjs';
import {gemmOf} from './native/gemm.ts';
import {type QuantizedAttributes, writeQuantized} from './native/quantizedOperand.ts';
import {offsetOf, type WasmBackend} from './wasmBackend.ts';

interface DequantizeRowsArgs {
  inputs: Record<string, tf.TensorInfo>;
  attrs: QuantizedAttributes & {begin: number; end: number};
  backend: unknown;
}

/** `DequantizeRows` (layers/ops/dequantizeRows.ts), sixteen values at a time. */
export const dequantizeRows = {
  kernelName: 'DequantizeRows',
  backendName: 'wasm',
  kernelFunc: (args: unknown) => {
    const {inputs, attrs, backend: anyBackend} = args as DequantizeRowsArgs;
    const backend = anyBackend as WasmBackend;
    const {begin, end, cols} = attrs;
    const out = backend.makeOutput([end - begin, cols], 'float32');
    const quantized = writeQuantized(backend, attrs, inputs);
    gemmOf(backend).exports.dequantize(quantized, offsetOf(backend, out), begin, end);
    return out;
  },
} as const;
