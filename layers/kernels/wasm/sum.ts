import * as tf from '@tensorflow/tfjs';
import {gemmOf} from './native/gemm.ts';
import {offsetOf, type WasmBackend} from './wasmBackend.ts';

interface SumArgs {
  inputs: {x: tf.TensorInfo};
  attrs: {axis: number | number[]; keepDims?: boolean};
  backend: unknown;
}

/**
 * `Sum`, which the stock backend does one element at a time, after a transpose unless the last axes are summed. Axes
 * that are not neighbours, and other types than float32, go to the stock kernel.
 */
export const sum = (stock: tf.KernelFunc) =>
  ({
    kernelName: tf.Sum,
    backendName: 'wasm',
    kernelFunc: (args: Parameters<tf.KernelFunc>[0]) => {
      const {inputs, attrs, backend: anyBackend} = args as unknown as SumArgs;
      const backend = anyBackend as WasmBackend;
      const {x} = inputs;
      const axes = tf.util.parseAxisParam(attrs.axis, x.shape).sort((a, b) => a - b);
      const [first] = axes;
      const last = axes[axes.length - 1];
      if (x.dtype !== 'float32' || axes.length === 0 || last - first !== axes.length - 1) return stock(args);
      const before = x.shape.slice(0, first);
      const summed = x.shape.slice(first, last + 1);
      const after = x.shape.slice(last + 1);
      const kept = attrs.keepDims ? summed.map(() => 1) : [];
      const out = backend.makeOutput([...before, ...kept, ...after], 'float32');
      const [outer, rows, inner] = [before, summed, after].map((shape) => tf.util.sizeFromShape(shape));
      gemmOf(backend).exports.sumMiddle(offsetOf(backend, x), offsetOf(backend, out), outer, rows, inner);
      return out;
    },
  }) as const;
