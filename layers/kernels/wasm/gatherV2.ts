import * as tf from '@tensorflow/tfjs';
import {op, type Tensors} from '../../ops/op.ts';
import {stockKernel} from '../kernel.ts';
import {gemmOf} from './native/gemm.ts';
import {offsetOf} from './wasmBackend.ts';

const gatherV2Op = op<Tensors<'x' | 'indices'>, tf.GatherV2Attrs>(tf.GatherV2);

/**
 * `GatherV2`, which the stock backend computes element by element. The stock kernel still runs everything but 32-bit
 * values by int32 indices without batch axes.
 */
export const gatherV2 = stockKernel(gatherV2Op, 'wasm', ({inputs, attrs, backend}, stock) => {
  const {x, indices} = inputs;
  const isPlain =
    !attrs.batchDims && indices.dtype === 'int32' && (x.dtype === 'float32' || x.dtype === 'int32');
  if (!isPlain) return stock();
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
});
