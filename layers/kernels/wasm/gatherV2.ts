import * as tf from '@tensorflow/tfjs';
import {gemmOf} from './native/gemm.ts';
import {offsetOf, type WasmBackend} from './wasmBackend.ts';

interface GatherV2Args {
  inputs: {x: tf.TensorInfo; indices: tf.TensorInfo};
  attrs: {axis: number; batchDims: number};
  backend: unknown;
}

/**
 * `GatherV2`, which the stock backend computes element by element. What is not 32-bit values by int32 indices without
 * batch axes goes to the stock kernel.
 */
export const gatherV2 = (stock: tf.KernelFunc) =>
  ({
    kernelName: tf.GatherV2,
    backendName: 'wasm',
    kernelFunc: (args: Parameters<tf.KernelFunc>[0]) => {
      const {inputs, attrs, backend: anyBackend} = args as unknown as GatherV2Args;
      const backend = anyBackend as WasmBackend;
      const {x, indices} = inputs;
      const isPlain =
        !attrs.batchDims && indices.dtype === 'int32' && (x.dtype === 'float32' || x.dtype === 'int32');
      if (!isPlain) return stock(args);
      const [axis] = tf.util.parseAxisParam(attrs.axis, x.shape);
      const before = x.shape.slice(0, axis);
      const after = x.shape.slice(axis + 1);
      const out = backend.makeOutput([...before, ...indices.shape, ...after], x.dtype);
      const wrong = gemmOf(backend).exports.copyRows(
        offsetOf(backend, x),
        offsetOf(backend, indices),
        offsetOf(backend, out),
        tf.util.sizeFromShape(before),
        x.shape[axis],
        tf.util.sizeFromShape(after),
        tf.util.sizeFromShape(indices.shape),
      );
      if (wrong >= 0) {
        backend.disposeData(out.dataId);
        const got = (backend.readSync(indices.dataId) as Int32Array)[wrong];
        throw new RangeError(`gather index ${wrong}: expected 0 … ${x.shape[axis] - 1}, got ${got}.`);
      }
      return out;
    },
  }) as const;
