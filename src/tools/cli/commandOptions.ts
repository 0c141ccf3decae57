import {InvalidArgumentError} from 'commander';
import type {BackendName} from '../../training/backends/useBackend.ts';
import {isRecipeKey} from '../recipes/parseRecipe.ts';

/** What every command takes besides its own options: `command.optsWithGlobals<CommonOptions>()`. */
export interface CommonOptions {
  /** Show the stack of an error. */
  debug: boolean;
  backend: 'auto' | BackendName;
}

/** Reads an option's value. */
export function positiveNumber(text: string): number {
  const value = Number(text);
  if (value > 0 && Number.isFinite(value)) return value;
  throw new InvalidArgumentError('Expected a number above 0.');
}

/**
 * An option that takes several values takes all that follows it, also the `key=value` meant for the recipe. What has the
 * name of a recipe's key before its `=` is that; everything else, such as `label=folder`, is the option's own.
 */
export function separateOverrides(values: readonly string[]): {own: string[]; overrides: string[]} {
  const isOverride = (text: string) => text.includes('=') && isRecipeKey(text.slice(0, text.indexOf('=')));
  return {own: values.filter((text) => !isOverride(text)), overrides: values.filter(isOverride)};
}
