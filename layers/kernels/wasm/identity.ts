import * as tf from '@tensorflow/tfjs';
import type {WasmBackend} from './wasmBackend.ts';

/** `Identity`, what `clone` and everything saved for backward goes through, without the stock kernel's copy of the data. */
export const identity = (stock: tf.KernelFunc): tf.KernelConfig => ({
  kernelName: tf.Identity,
  backendName: 'wasm',
  kernelFunc: (args) => {
    const {inputs, backend} = args as unknown as {inputs: {x: tf.TensorInfo}; backend: WasmBackend};
    const {dataId, shape, dtype} = inputs.x;
    if (dtype === 'string') return stock(args);
    backend.incRef(dataId);
    return {dataId, shape, dtype};
  },
});
