import * as tf from '@tensorflow/tfjs';
import {packFlatOp} from '../../../ops/packFlat.ts';
import {opsKernel} from '../device/opsKernel.ts';

/** `PackFlat` (layers/ops/packFlat.ts) in one op. */
export const packFlat = opsKernel(packFlatOp, (ops, tensors) => {
  if (ops.areFusedEverywhere) return ops.fused('PackFlat', [], [], 1, tensors)[0];
  const parts = tensors.map((tensor) => ops.reshape(tensor, [tf.util.sizeFromShape(tensor.shape)]));
  return ops.concat(parts, 0);
});
