import {isRecipeKey} from '../recipes/isRecipeKey.ts';

/**
 * An option that takes several values takes all that follows it, also the `key=value` meant for the recipe. What has the
 * name of a recipe's key before its `=` is that; everything else, such as `label=folder`, is the option's own.
 */
export function separateOverrides(values: readonly string[]): {own: string[]; overrides: string[]} {
  const isOverride = (text: string) => text.includes('=') && isRecipeKey(text.slice(0, text.indexOf('=')));
  return {own: values.filter((text) => !isOverride(text)), overrides: values.filter(isOverride)};
}
