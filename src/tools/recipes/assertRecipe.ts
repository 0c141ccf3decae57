import {TfjsLoraError} from '../../../quant/errors.ts';
import {show} from '../../../quant/show.ts';

/**
 * Refuses the path of a recipe in place of the recipe.
 *
 * @param call name of the function that was called, for messages
 * @throws TfjsLoraError `INVALID_ARGUMENT`
 */
export function assertRecipe(call: string, recipe: unknown): void {
  if (typeof Object(recipe).tasks === 'object') return;
  throw new TfjsLoraError(
    'INVALID_ARGUMENT',
    `${call} recipe: expected a loaded recipe, got ${show(recipe)}. Pass await loadRecipe('recipe.yaml').`,
  );
}
