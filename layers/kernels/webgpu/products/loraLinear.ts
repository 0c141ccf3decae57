import {loraLinearOp} from '../../../ops/loraLinear.ts';
import {kernel} from '../../kernel.ts';
import {expand, gradientOfFactor, project, transposed} from './lowRank.ts';

/** `LoRALinear` (layers/ops/loraLinear.ts). */
export const loraLinear = kernel(loraLinearOp, 'webgpu', ({inputs, attrs, backend}) => {
  const {base, x, a, b} = inputs;
  const low = project(backend, x, a, attrs.scaling); // [N, rank]
  const wideB = transposed(backend, b); // [rank, units]
  const y = expand(backend, low, wideB, base);
  for (const {dataId} of [low, wideB]) backend.disposeData(dataId);
  return y;
});

/** Gradients of `base`, `x`, `a` and `b`; `x · Aᵀ` is computed again. */
export const loraLinearGrad = kernel(loraLinearOp.gradient, 'webgpu', ({inputs, attrs, backend}) => {
  const {dy, x, a, b} = inputs;
  const wideB = transposed(backend, b); // [rank, units]
  const lowGradient = project(backend, dy, wideB, attrs.scaling); // [N, rank]
  const low = project(backend, x, a, attrs.scaling); // [N, rank]
  const dx = expand(backend, lowGradient, a);
  const da = gradientOfFactor(backend, lowGradient, x, false);
  const db = gradientOfFactor(backend, low, dy, true);
  for (const {dataId} of [wideB, lowGradient, low]) backend.disposeData(dataId);
  backend.incRef(dy.dataId); // the gradient of base is dy itself
  return [{dataId: dy.dataId, shape: dy.shape, dtype: dy.dtype}, dx, da, db];
});
