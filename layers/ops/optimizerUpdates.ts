import * as tf from '@tensorflow/tfjs';
import {adamW8bitUpdate} from './adamW8bitUpdate.ts';
import {type AdamWSettings, adamWUpdate} from './adamWUpdate.ts';
import {dispatch, hasKernel} from './dispatch.ts';
import {lion8bitUpdate} from './lion8bitUpdate.ts';
import {type LionSettings, lionUpdate} from './lionUpdate.ts';
import {op} from './op.ts';

/** The update rules that kernels apply to several variables in one call; see the ops for one variable. */
export type OptimizerRule =
  | {rule: 'AdamW'; settings: AdamWSettings}
  | {rule: 'AdamW8bit'; settings: AdamWSettings}
  | {rule: 'Lion'; settings: LionSettings}
  | {rule: 'Lion8bit'; settings: LionSettings};

/** The tensors of one variable that an update takes. */
export interface OptimizerTensors {
  value: tf.Tensor;
  gradient: tf.Tensor;
  /** In the order of the op for one variable; an 8-bit state is its codes and its absmax. */
  state: tf.Tensor[];
}

/** Scales gradients down to a global norm of at most `maxNorm` before the host has read their norm. */
export interface GradientClipping {
  norm: tf.Scalar;
  maxNorm: number;
}

/**
 * Takes value, gradient and state of each variable in turn and, with `maxNorm`, the norm of the gradients; returns the
 * next value and state of each.
 */
export const optimizerUpdatesOp = op<tf.TensorInfo[], OptimizerRule & {maxNorm?: number}, tf.Tensor[]>(
  'OptimizerUpdates',
);

/** How many variables to update in one call: one on backends that compute each by itself anyway. */
export const optimizerUpdatesAtOnce = (): number => (hasKernel(optimizerUpdatesOp) ? 256 : 1);

/**
 * Updates several variables by one rule with the same settings; a kernel takes all in one pass.
 *
 * @returns the next value and state of each
 */
export function optimizerUpdates(
  updates: OptimizerTensors[],
  rule: OptimizerRule,
  clipping?: GradientClipping,
): [value: tf.Tensor, ...state: tf.Tensor[]][] {
  const inputs = updates.flatMap(({value, gradient, state}) => [value, gradient, ...state]);
  if (clipping) inputs.push(clipping.norm);
  const outputs = dispatch(optimizerUpdatesOp, inputs, {...rule, maxNorm: clipping?.maxNorm}, () => {
    const clipped = clipping ? updates.map((update) => clip(update, clipping)) : updates;
    return clipped.flatMap((update) => updateOne(update, rule));
  });
  const each = 1 + (updates[0]?.state.length ?? 0);
  return updates.map((_, i) => outputs.slice(each * i, each * (i + 1)) as [tf.Tensor]);
}

function clip(update: OptimizerTensors, {norm, maxNorm}: GradientClipping): OptimizerTensors {
  const factor = tf.minimum(1, tf.div(maxNorm, norm.add(1e-6)));
  return {...update, gradient: update.gradient.mul(factor)};
}

function updateOne(
  {value, gradient, state: [first, firstScales, second, secondScales]}: OptimizerTensors,
  {rule, settings}: OptimizerRule,
): tf.Tensor[] {
  if (rule === 'AdamW') return adamWUpdate(value, gradient, first, firstScales, settings);
  if (rule === 'Lion') return lionUpdate(value, gradient, first, settings);
  const state = {codes: first, absmax: firstScales};
  if (rule === 'Lion8bit') {
    const [next, {codes, absmax}] = lion8bitUpdate(value, gradient, state, settings);
    return [next, codes, absmax];
  }
  const variance = {codes: second, absmax: secondScales};
  const [next, mean, nextVariance] = adamW8bitUpdate(value, gradient, state, variance, settings);
  return [next, mean.codes, mean.absmax, nextVariance.codes, nextVariance.absmax];
}
