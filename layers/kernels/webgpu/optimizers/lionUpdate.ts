import {lionUpdateOp} from '../../../ops/lionUpdate.ts';
import {kernel} from '../../kernel.ts';
import {elementwise, runUpdate} from '../elementwise/elementwise.ts';
import {UNLESS_FINITE_RETURN} from './gradientFactor.ts';

const declared = {
  name: 'LionUpdate',
  outputs: ['value' as const, 'momentum' as const],
  inputs: ['gradient' as const],
  uniforms: ['beta1', 'rest1', 'beta2', 'rest2', 'keep', 'rate'],
};
const BODY = `
  value[i] = u.keep * value[i] - u.rate * sign(u.beta1 * momentum[i] + u.rest1 * g);
  momentum[i] = u.beta2 * momentum[i] + u.rest2 * g;`;
const update = elementwise({...declared, body: `let g = gradient[i];${BODY}`});
const updateIfFinite = elementwise({
  ...declared,
  scalars: ['factor'],
  body: `${UNLESS_FINITE_RETURN} let g = gradient[i] * factor[0];${BODY}`,
});

/** `LionUpdate` (layers/ops/lionUpdate.ts): value and momentum in one pass. */
export const lionUpdate = kernel(lionUpdateOp, 'webgpu', ({inputs, attrs, backend}) => {
  const {learningRate, beta1, beta2, weightDecay, overwrite = false} = attrs;
  const {value, gradient, momentum, factor} = inputs;
  const uniforms = {
    beta1,
    rest1: 1 - beta1,
    beta2,
    rest2: 1 - beta2,
    keep: 1 - learningRate * weightDecay,
    rate: learningRate,
  };
  const changed = {value, momentum};
  return factor
    ? runUpdate(backend, updateIfFinite, changed, {gradient, factor}, overwrite, uniforms)
    : runUpdate(backend, update, changed, {gradient}, overwrite, uniforms);
});
