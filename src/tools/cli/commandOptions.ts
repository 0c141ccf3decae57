import {InvalidArgumentError} from 'commander';
import type {BackendName} from '../../training/backends/useBackend.ts';
import {isRecipeKey} from '../recipes/parseRecipe.ts';

/** The options that every command has besides its own: `command.optsWithGlobals<CommonOptions>()`. */
export interface CommonOptions {
  /** Whether to show the stack of an error. */
  debug: boolean;
  backend: 'auto' | BackendName;
  /** Modules that extend the library, imported before the command runs. */
  import: string[];
}

/** Reads an option's value as a number above 0. */
export function positiveNumber(text: string): number {
  const value = Number(text);
  if (value > 0 && Number.isFinite(value)) return value;
  throw new InvalidArgumentError('Expected a number above 0.');
}

/**
 * Separates the values of an option from the recipe's `key=value`, because an option with several values takes
 * everything that follows it. A value with the name of a recipe's key before its `=` belongs to the recipe; everything
 * else, such as `label=folder`, belongs to the option.
 */
export function separateOverrides(values: readonly string[]): {own: string[]; overrides: string[]} {
  const isOverride = (text: string) => text.includes('=') && isRecipeKey(text.slice(0, text.indexOf('=')));
  return {own: values.filter((text) => !isOverride(text)), overrides: values.filter(isOverride)};
}
