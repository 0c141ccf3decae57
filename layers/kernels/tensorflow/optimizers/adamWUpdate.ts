import {type AdamWSettings, adamWUpdateOp} from '../../../ops/adamWUpdate.ts';
import {opsKernel} from '../device/opsKernel.ts';
import type {Ops} from '../device/runOps.ts';
import type {Handle} from '../device/tensorflowBackend.ts';

/**
 * `AdamWUpdate` (layers/ops/adamWUpdate.ts). TensorFlow's own Adam is not decoupled and works on variables in place, so
 * this uses plain ops.
 */
export const adamWUpdate = opsKernel(adamWUpdateOp, (ops, {value, gradient, mean, variance}, settings) => {
  const given = [value, gradient, mean, variance];
  return ops.areFusedEverywhere ? fusedAdamW(ops, given, settings) : nextAdamW(ops, given, settings);
});

/** Returns what changes from step to step: factors of the variance's root, of the value, and of the move. */
function factorsOf({
  learningRate,
  beta1,
  beta2,
  weightDecay,
  step,
}: AdamWSettings): Record<'correction' | 'decay' | 'rate', number> {
  return {
    correction: 1 / Math.sqrt(1 - beta2 ** step),
    decay: 1 - learningRate * weightDecay,
    rate: learningRate / (1 - beta1 ** step),
  };
}

/** Returns the next value, mean and variance. */
export function nextAdamW(
  ops: Ops,
  [value, gradient, mean, variance]: Handle[],
  settings: AdamWSettings,
): Handle[] {
  const {beta1, beta2, epsilon, weightDecay} = settings;
  const {correction, decay, rate} = factorsOf(settings);
  const scaled = (x: Handle, factor: number) => ops.mul(x, ops.scalar(factor));
  const nextMean = ops.add(scaled(mean, beta1), scaled(gradient, 1 - beta1));
  const nextVariance = ops.add(scaled(variance, beta2), scaled(ops.one('Square', [gradient]), 1 - beta2));
  const changing = (name: string, value: number) =>
    ops.latest(`AdamW ${name}`, `${value}`, () => ops.constant([], Float32Array.of(value)));
  const root = ops.mul(ops.one('Sqrt', [nextVariance]), changing('variance correction', correction));
  const move = ops.one('RealDiv', [nextMean, ops.add(root, ops.scalar(epsilon))]);
  const decayed = weightDecay === 0 ? value : ops.mul(value, changing('decay', decay));
  return [ops.sub(decayed, ops.mul(move, changing('rate', rate))), nextMean, nextVariance];
}

/** Returns the factors in the order of `native/adamw_updates.cc`. */
export function adamWFactors(settings: AdamWSettings): number[] {
  const {beta1, beta2, epsilon} = settings;
  const {correction, decay, rate} = factorsOf(settings);
  return [beta1, 1 - beta1, beta2, 1 - beta2, correction, epsilon, decay, rate];
}

/**
 * Updates several variables in one op.
 *
 * @param given value, gradient, mean and variance of each in turn
 * @returns the next value, mean and variance of each in turn
 */
export function fusedAdamW(ops: Ops, given: Handle[], settings: AdamWSettings): Handle[] {
  const count = given.length / 4;
  const byKind = [0, 1, 2, 3].flatMap((kind) => given.filter((_, i) => i % 4 === kind));
  const factors = adamWFactors(settings);
  const inputs = [...byKind, ops.constant([factors.length], Float32Array.from(factors))];
  const outputs = ops.fused('AdamWUpdates', inputs, [ops.intAttribute('N', count)], 3 * count);
  return outputs.map((_, i) => outputs[(i % 3) * count + Math.floor(i / 3)]);
}
