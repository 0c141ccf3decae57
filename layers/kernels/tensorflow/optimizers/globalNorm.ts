import {globalNormOp} from '../../../ops/globalNorm.ts';
import {opsKernel} from '../device/opsKernel.ts';
import {groupedByShape} from './groupedByShape.ts';

/** `GlobalNorm` (layers/ops/globalNorm.ts): small tensors of one shape are summed as one tensor. */
export const globalNorm = opsKernel(globalNormOp, (ops, tensors) => {
  if (ops.areFusedEverywhere) return ops.fused('GlobalNorm', [], [], 1, tensors)[0];
  const halves = groupedByShape(tensors).map((places) =>
    ops.scope(() => {
      const parts = places.map((place) => tensors[place]);
      return ops.one('L2Loss', [parts.length === 1 ? parts[0] : ops.stack(parts)]); // half the sum of squares
    }),
  );
  return ops.one('Sqrt', [ops.mul(ops.sum(ops.stack(halves), 0), ops.scalar(2))]);
});
