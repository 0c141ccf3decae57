import {stat} from 'node:fs/promises';
import {loadRecipe, type Recipe, resolveRecipe} from './recipe.ts';
import {parseRecipeText} from './recipeSource.ts';

/**
 * The recipe whose model a command line means to use, without running its tasks: a YAML or JSON file, or a model alone, for which everything else has its default.
 *
 * @param target a recipe's path, a model's folder, or its name on the hub
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
