import {FORMER_NAMES, IGNORED_KEYS, REFUSED_KEYS} from './foreignKeys.ts';
import {recipeSchema} from './recipeKeys.ts';

/** Whether a recipe may have a key of this name, one that means nothing here or is refused included. */
export function isRecipeKey(name: string): boolean {
  return [recipeSchema.shape, FORMER_NAMES, IGNORED_KEYS, REFUSED_KEYS].some((keys) =>
    keys instanceof Map ? keys.has(name) : Object.hasOwn(keys, name),
  );
}
