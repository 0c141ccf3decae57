import * as tf from '@tensorflow/tfjs';
import {warn} from '../../../quant/warn.ts';
import type {TrainableModel} from './trainableModel.ts';

/** Weights that train in a base whose matrices cannot. */
const NORM_OR_BIAS = /norm\.weight$|\.bias$/;

/**
 * Warns when a base in 16 or fewer bits has no adapter: its matrices are frozen, so training would change only its
 * norms.
 */
export function warnOfFrozenMatrices(model: TrainableModel): void {
  const parameters = [...(model.namedParameters?.() ?? [])];
  const frozen = parameters.filter(([, {trainable, storage}]) => !trainable && storage !== 'float32');
  const trained = parameters.filter(([, {trainable}]) => trainable);
  if (frozen.length === 0 || trained.length === 0) return;
  if (!trained.every(([name]) => NORM_OR_BIAS.test(name))) return;
  const sizeOf = (weights: typeof parameters) =>
    weights.reduce((sum, [, {logicalShape}]) => sum + tf.util.sizeFromShape(logicalShape), 0);
  warn(
    `training: expected an adapter or matrices in float32, got ${frozen.length} matrices in 16 or fewer bits, which are frozen. ` +
      `Only norms and biases train, ${sizeOf(trained)} of ${sizeOf(parameters)} parameters. Call applyLoRA() first, or load the ` +
      "model with {dtype: 'float32'} to train all of it.",
  );
}
