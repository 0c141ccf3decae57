import * as tf from '@tensorflow/tfjs';
import {packFlatOp} from '../../../ops/packFlat.ts';
import {kernel} from '../../kernel.ts';
import {bufferOf, copyParts} from '../device/copyParts.ts';

/** `PackFlat` (layers/ops/packFlat.ts): a copy for each tensor. */
export const packFlat = kernel(packFlatOp, 'webgpu', ({inputs, backend}) => {
  const tensors = Object.values(inputs);
  const size = tensors.reduce((sum, {shape}) => sum + tf.util.sizeFromShape(shape), 0);
  const flat = backend.makeTensorInfo([size], 'float32');
  copyParts(backend, bufferOf(backend, flat), tensors, 'pack');
  return flat;
});
