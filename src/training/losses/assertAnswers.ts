import {TfjsLoraError} from '../../../quant/errors.ts';
import type {LossModel} from './lossModel.ts';
import type {RolloutModel} from './rollouts.ts';

/**
 * Checks that a model can answer prompts in training.
 *
 * @param what names the loss in messages
 * @throws TfjsLoraError `UNSUPPORTED`
 */
export function assertAnswers(what: string, model: LossModel): void {
  const {tokenLosses, newCache, tokenizer} = model as Partial<RolloutModel>;
  if (!tokenLosses || !newCache) {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `${what}: expected a model that generates, as every CausalLM does, got one that does not`,
    );
  }
  if (tokenizer) return;
  throw new TfjsLoraError(
    'UNSUPPORTED',
    `${what}: expected a model with a tokenizer, so that answers are texts, got one without. Set model.tokenizer.`,
  );
}
