import {assertKnownOptions} from '../../../quant/knownOptions.ts';
import {assertRecipe} from './assertRecipe.ts';
import type {RecipePlan} from './planOf.ts';
import {PREPARE_OPTIONS, type PrepareOptions, prepareRecipe} from './prepareRecipe.ts';
import type {Recipe} from './recipe.ts';

/**
 * Plans a recipe without reading the model's weights or writing anything: it tokenizes the data, and counts and checks
 * with a model whose weights are not allocated.
 *
 * @throws TfjsLoraError as `trainRecipe` does before its first step
 */
export async function planRecipe(recipe: Recipe, options: PrepareOptions = {}): Promise<RecipePlan> {
  assertKnownOptions('planRecipe', options, PREPARE_OPTIONS);
  assertRecipe('planRecipe', recipe);
  const {plan, optimizer} = await prepareRecipe(recipe, options);
  optimizer.dispose();
  return plan;
}
