import * as tf from '@tensorflow/tfjs';
import {gemmOf} from './native/gemm.ts';
import {offsetOf, type WasmBackend} from './wasmBackend.ts';

interface ExpArgs {
  inputs: {x: tf.TensorInfo};
  backend: unknown;
}

/** `Exp`, four values at a time; the stock backend computes one. Other types than float32 go to the stock kernel. */
export const exp = (stock: tf.KernelFunc) =>
  ({
    kernelName: tf.Exp,
    backendName: 'wasm',
    kernelFunc: (args: Parameters<tf.KernelFunc>[0]) => {
      const {inputs, backend: anyBackend} = args as unknown as ExpArgs;
      const backend = anyBackend as WasmBackend;
      const {x} = inputs;
      if (x.dtype !== 'float32') return stock(args);
      const out = backend.makeOutput(x.shape, 'float32');
      const count = tf.util.sizeFromShape(x.shape);
      gemmOf(backend).exports.expAll(offsetOf(backend, x), offsetOf(backend, out), count);
      return out;
    },
  }) as const;
