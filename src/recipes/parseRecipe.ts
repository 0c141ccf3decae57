import type {z} from 'zod';
import {nearestNames} from '../../quant/errors.ts';
import {describeType} from './describeType.ts';
import {Faults} from './faults.ts';
import {FORMER_NAMES, IGNORED_KEYS, REFUSED_KEYS, type RefusedKey} from './foreignKeys.ts';
import {type RecipeKeys, recipeSchema} from './recipeKeys.ts';
import type {RecipeSource} from './recipeSource.ts';

export interface ParsedRecipe {
  keys: RecipeKeys;
  /** Keys that were written and mean nothing here, with the reason. */
  ignored: Map<string, string>;
}

/** YAML 1.1 took these for booleans, and recipes are written for its readers. */
const FORMER_BOOLEANS: Record<string, boolean> = {
  true: true,
  yes: true,
  on: true,
  false: false,
  no: false,
  off: false,
};

/**
 * Checks a recipe's keys and the type of every value.
 *
 * @throws TfjsLoraError `INVALID_CONFIG` or `UNSUPPORTED`, one line for each fault, with file, line and column
 */
export function parseRecipe(source: RecipeSource): ParsedRecipe {
  const known: Record<string, unknown> = {};
  const writtenAs = new Map<string, string>();
  const ignored = new Map<string, string>();
  const faults = new Faults([...source.values.keys()]);
  for (const [written, value] of source.values) {
    const key = FORMER_NAMES.get(written) ?? written;
    if (Object.hasOwn(recipeSchema.shape, key)) {
      if (writtenAs.has(key)) {
        faults.add(written, `${source.whereKey(written)} ${written}: expected ${key} once, got it twice`);
      }
      writtenAs.set(key, written);
      if (value !== null) known[key] = asBoolean(key, value);
    } else if (IGNORED_KEYS.has(key)) {
      ignored.set(key, IGNORED_KEYS.get(key) as string);
    } else if (REFUSED_KEYS.has(key)) {
      const {off, advice} = REFUSED_KEYS.get(key) as RefusedKey;
      if (value === null || off.includes(value)) ignored.set(key, 'it is off');
      else {
        const got = `expected ${orAbsent(off)}, got ${show(value)}`;
        faults.add(key, `${source.where(key)} ${key}: ${got}. ${advice}`, 'UNSUPPORTED');
      }
    } else {
      const message = `expected a key of a recipe, got an unknown one. ${didYouMean(key)}`;
      faults.add(key, `${source.whereKey(key)} ${key}: ${message}`);
    }
  }
  const result = recipeSchema.safeParse(known);
  for (const issue of result.error?.issues ?? []) {
    const key = String(issue.path[0]);
    const written = writtenAs.get(key) ?? key;
    faults.add(
      written,
      `${source.where(written)} ${issue.path.join('.')}: ${complaint(issue, key, known[key])}`,
    );
  }
  faults.throwIfAny();
  return {keys: result.data as RecipeKeys, ignored};
}

function asBoolean(key: string, value: unknown): unknown {
  const accepts = (candidate: unknown) =>
    recipeSchema.shape[key as keyof RecipeKeys].safeParse(candidate).success;
  if (typeof value === 'boolean') return !accepts(value) && !value && accepts('no') ? 'no' : value; // eval_strategy
  if (typeof value !== 'string') return value;
  const boolean = FORMER_BOOLEANS[value.toLowerCase()];
  return boolean !== undefined && accepts(boolean) ? boolean : value;
}

function complaint(issue: z.core.$ZodIssue, key: string, value: unknown): string {
  if (value === undefined) return 'expected a value, got none';
  if (issue.code === 'unrecognized_keys') return `expected other keys, got ${issue.keys.join(', ')}`;
  const expected =
    issue.code === 'custom' ? issue.message : describeType(recipeSchema.shape[key as keyof RecipeKeys]);
  return `expected ${expected}, got ${show(value)}`;
}

function didYouMean(key: string): string {
  const nearest = nearestNames(key, [...Object.keys(recipeSchema.shape), ...IGNORED_KEYS.keys()], 1)[0];
  return `Did you mean ${nearest}?`;
}

function orAbsent(off: readonly unknown[]): string {
  return off.length > 0 ? `${off.map(show).join(' or ')}, or no such key` : 'no such key';
}

const show = (value: unknown): string => JSON.stringify(value);
