import * as tf from '@tensorflow/tfjs';
import {op, type Tensors} from '../../ops/op.ts';
import {kernel} from '../kernel.ts';
import {gemmOf} from './native/gemm.ts';
import {offsetOf} from './wasmBackend.ts';

const unsortedSegmentSumOp = op<Tensors<'x' | 'segmentIds'>, {numSegments: number}>(tf.UnsortedSegmentSum);

/**
 * `UnsortedSegmentSum`, which the stock backend lacks: `out[segmentIds[i]] += x[i]`. It is the gradient of `gather`.
 * Ids outside the segments are skipped, as on the cpu backend.
 */
export const unsortedSegmentSum = kernel(unsortedSegmentSumOp, 'wasm', ({inputs, attrs, backend}) => {
  const {x, segmentIds} = inputs;
  const {numSegments} = attrs;
  if (x.dtype !== 'float32' || segmentIds.dtype !== 'int32') {
    throw new Error(
      `UnsortedSegmentSum: expected float32 by int32 ids, got ${x.dtype} by ${segmentIds.dtype}.`,
    );
  }
  const idCount = tf.util.sizeFromShape(segmentIds.shape);
  const rowShape = x.shape.slice(segmentIds.shape.length);
  const cols = tf.util.sizeFromShape(rowShape);
  const out = backend.makeOutput([numSegments, ...rowShape], 'float32');
  const offset = offsetOf(backend, out);
  backend.wasm.HEAPU8.fill(0, offset, offset + 4 * numSegments * cols);
  gemmOf(backend).exports.addRows(
    offsetOf(backend, x),
    offsetOf(backend, segmentIds),
    offset,
    idCount,
    cols,
    numSegments,
  );
  return out;
});
