import type * as tf from '@tensorflow/tfjs';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {UNDECAYED_BY_TRANSFORMERS} from '../../training/optimizers/decoupledDecayOptimizer.ts';
import {optimizerByName} from '../../training/optimizers/optimizerByName.ts';
import type {Recipe} from './recipe.ts';

/**
 * Makes the optimizer that a recipe names in transformers' words (`optim`). It does not decay biases and norms.
 *
 * @throws TfjsLoraError as {@link optimizerByName} does, naming the recipe
 */
export function optimizerOf({
  optimizer: {name, loraPlusEmbeddingRate, ...settings},
  path,
}: Recipe): tf.Optimizer {
  const embedding: [string, number] = ['lora_embedding_B', loraPlusEmbeddingRate / settings.learningRate];
  const learningRateFactors = settings.loraPlusRatio === undefined ? undefined : [embedding];
  try {
    return optimizerByName(name, {
      ...settings,
      learningRateFactors,
      excludeFromWeightDecay: UNDECAYED_BY_TRANSFORMERS,
    });
  } catch (cause) {
    if (!(cause instanceof TfjsLoraError)) throw cause;
    throw new TfjsLoraError(cause.code, `${path} optim: ${cause.message}`, {cause});
  }
}
