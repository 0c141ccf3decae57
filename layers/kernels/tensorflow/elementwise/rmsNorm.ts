import {rmsNormOp} from '../../../ops/rmsNorm.ts';
import {opsKernel} from '../device/opsKernel.ts';

/** `RMSNorm` (layers/ops/rmsNorm.ts). Second output: the inverse root `[..., 1]`, for backward. */
export const rmsNorm = opsKernel(rmsNormOp, (ops, {x, weight}, {epsilon}) => {
  if (ops.areFusedEverywhere)
    return ops.fused('RMSNorm', [x, weight], [ops.floatAttribute('epsilon', epsilon)], 2);
  const meanSquare = ops.mean(ops.one('Square', [x]), x.shape.length - 1, true); // [..., 1]
  const inverse = ops.one('Rsqrt', [ops.add(meanSquare, ops.scalar(epsilon))]);
  return [ops.mul(ops.mul(x, inverse), weight), inverse];
});

/** Gradient of `x`: `r · (dy·w − x · r² · mean(dy·w · x))` with r the inverse root. */
export const rmsNormGrad = opsKernel(rmsNormOp.gradient, (ops, {dy, x, weight, extra0: inverse}) => {
  if (ops.areFusedEverywhere) return ops.fused('RMSNormGrad', [dy, x, weight, inverse], [], 1);
  const weighted = ops.mul(dy, weight);
  const along = ops.mean(ops.mul(weighted, x), x.shape.length - 1, true); // [..., 1]
  const pull = ops.mul(x, ops.mul(along, ops.one('Square', [inverse])));
  return ops.mul(ops.sub(weighted, pull), inverse);
});
