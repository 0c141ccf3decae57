import {lionUpdateOp} from '../../../ops/lionUpdate.ts';
import {kernel} from '../../kernel.ts';
import {elementwise, runUpdate} from '../elementwise/elementwise.ts';

const update = elementwise({
  name: 'LionUpdate',
  outputs: ['value', 'momentum'],
  inputs: ['gradient'],
  uniforms: ['beta1', 'rest1', 'beta2', 'rest2', 'keep', 'rate'],
  body: `
  value[i] = u.keep * value[i] - u.rate * sign(u.beta1 * momentum[i] + u.rest1 * gradient[i]);
  momentum[i] = u.beta2 * momentum[i] + u.rest2 * gradient[i];`,
});

/** `LionUpdate` (layers/ops/lionUpdate.ts): value and momentum in one pass. */
export const lionUpdate = kernel(lionUpdateOp, 'webgpu', ({inputs, attrs, backend}) => {
  const {learningRate, beta1, beta2, weightDecay, overwrite = false} = attrs;
  const {value, gradient, momentum} = inputs;
  return runUpdate(backend, update, {value, momentum}, {gradient}, overwrite, {
    beta1,
    rest1: 1 - beta1,
    beta2,
    rest2: 1 - beta2,
    keep: 1 - learningRate * weightDecay,
    rate: learningRate,
  });
});
