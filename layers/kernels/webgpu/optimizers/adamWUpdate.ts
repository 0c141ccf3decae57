import {type AdamWSettings, adamWUpdateOp} from '../../../ops/adamWUpdate.ts';
import {kernel} from '../../kernel.ts';
import {elementwise, runUpdate} from '../elementwise/elementwise.ts';

/** WGSL for element `i`, or for four of them, and their gradient `g`. */
export const BODY = `
  let m = u.beta1 * mean[i] + u.rest1 * g;
  let v = u.beta2 * variance[i] + u.rest2 * g * g;
  value[i] = u.keep * value[i] - u.stepSize * m / (sqrt(v) / u.correction + u.epsilon);
  mean[i] = m;
  variance[i] = v;`;

/** Constants of {@link BODY}. */
export const FACTORS = [
  'beta1',
  'rest1',
  'beta2',
  'rest2',
  'keep',
  'stepSize',
  'correction',
  'epsilon',
] as const;

/** Returns their values for one update. */
export function factorsOf(settings: AdamWSettings): Record<(typeof FACTORS)[number], number> {
  const {learningRate, beta1, beta2, epsilon, weightDecay, step} = settings;
  return {
    beta1,
    rest1: 1 - beta1,
    beta2,
    rest2: 1 - beta2,
    keep: 1 - learningRate * weightDecay,
    stepSize: learningRate / (1 - beta1 ** step),
    correction: Math.sqrt(1 - beta2 ** step),
    epsilon,
  };
}

const update = elementwise({
  name: 'AdamWUpdate',
  outputs: ['value', 'mean', 'variance'],
  inputs: ['gradient'],
  uniforms: [...FACTORS],
  body: `let g = gradient[i];${BODY}`,
});

/** `AdamWUpdate` (layers/ops/adamWUpdate.ts): value, mean and variance in one pass. */
export const adamWUpdate = kernel(adamWUpdateOp, 'webgpu', ({inputs, attrs, backend}) => {
  const {value, gradient, mean, variance} = inputs;
  return runUpdate(
    backend,
    update,
    {value, mean, variance},
    {gradient},
    attrs.overwrite ?? false,
    factorsOf(attrs),
  );
});
