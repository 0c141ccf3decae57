import {stat} from 'node:fs/promises';
import {loadRecipe, type Recipe, resolveRecipe} from './recipe.ts';
import {parseRecipeText} from './recipeSource.ts';

/**
 * Returns the recipe of a command that uses a model without running the recipe's tasks. For a model alone, every other
 * key has its default.
 *
 * @param target path of a recipe (YAML or JSON), a model's folder, or its name on the hub
 * @param overrides `key=value`
 */
export async function recipeOf(target: string, overrides: readonly string[] = []): Promise<Recipe> {
  const isFolder = await stat(target).then(
    (entry) => entry.isDirectory(),
    () => false,
  );
  if (!isFolder && /\.(ya?ml|json)$/i.test(target)) return loadRecipe(target, overrides, 'use');
  const text = `model_name_or_path: ${JSON.stringify(target)}`;
  return resolveRecipe(parseRecipeText(text, target, overrides), target, 'use');
}
