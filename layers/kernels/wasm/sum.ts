import * as tf from '@tensorflow/tfjs';
import {op, type Tensors} from '../../ops/op.ts';
import {stockKernel} from '../kernel.ts';
import {gemmOf} from './native/gemm.ts';
import {offsetOf} from './wasmBackend.ts';

const sumOp = op<Tensors<'x'>, tf.SumAttrs>(tf.Sum);

/**
 * `Sum`, which the stock backend does one element at a time, after a transpose unless the last axes are summed. The
 * stock kernel still runs axes that are not neighbours and types other than float32.
 */
export const sum = stockKernel(sumOp, 'wasm', ({inputs: {x}, attrs, backend}, stock) => {
  const axes = tf.util.parseAxisParam(attrs.axis, x.shape).sort((a, b) => a - b);
  const [first] = axes;
  const last = axes[axes.length - 1];
  if (x.dtype !== 'float32' || axes.length === 0 || last - first !== axes.length - 1) return stock();
  const before = x.shape.slice(0, first);
  const summed = x.shape.slice(first, last + 1);
  const after = x.shape.slice(last + 1);
  const kept = attrs.keepDims ? summed.map(() => 1) : [];
  const out = backend.makeOutput([...before, ...kept, ...after], 'float32');
  const [outer, rows, inner] = [before, summed, after].map((shape) => tf.util.sizeFromShape(shape));
  gemmOf(backend).exports.sumMiddle(offsetOf(backend, x), offsetOf(backend, out), outer, rows, inner);
  return out;
});
