import * as tf from '@tensorflow/tfjs';
import {unpackFlatOp} from '../../../ops/unpackFlat.ts';
import {opsKernel} from '../device/opsKernel.ts';

/** `UnpackFlat` (layers/ops/unpackFlat.ts) in one op. */
export const unpackFlat = opsKernel(unpackFlatOp, (ops, {flat}, {shapes}) => {
  if (ops.areFusedEverywhere) {
    const numbers = shapes.flatMap((shape) => [shape.length, ...shape]); // as in native/flat.cc
    const attributes = [ops.intAttribute('N', shapes.length), ops.listAttribute('shapes', 'int', numbers)];
    return ops.fused('UnpackFlat', [flat], attributes, shapes.length);
  }
  let begin = 0;
  return shapes.map((shape) => {
    const size = tf.util.sizeFromShape(shape);
    const part = ops.slice(flat, [begin], [size]);
    begin += size;
    return ops.reshape(part, shape);
  });
});
