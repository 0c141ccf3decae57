import type {z} from 'zod';
import {nearestNames} from '../../../quant/errors.ts';
import {show} from '../../../quant/show.ts';
import {describeType} from './describeType.ts';
import {Faults} from './faults.ts';
import {FORMER_NAMES, IGNORED_KEYS, isOff, REFUSED_KEYS, type RefusedKey} from './foreignKeys.ts';
import {type RecipeKeys, recipeSchema} from './recipeKeys.ts';
import type {RecipeSource} from './recipeSource.ts';

export interface ParsedRecipe {
  keys: RecipeKeys;
  /** Keys that were written and mean nothing here, with the reason. */
  ignored: Map<string, string>;
}

/** YAML 1.1 took these for booleans, and recipes are written for its readers. */
const FORMER_BOOLEANS: ReadonlyMap<unknown, boolean> = new Map([
  ['true', true],
  ['yes', true],
  ['on', true],
  ['false', false],
  ['no', false],
  ['off', false],
]);

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
      const given = inWordsOf(key, value);
      if (given !== null) known[key] = given;
    } else if (IGNORED_KEYS.has(key)) {
      ignored.set(key, IGNORED_KEYS.get(key) as string);
    } else if (REFUSED_KEYS.has(key)) {
      const refusal = REFUSED_KEYS.get(key) as RefusedKey;
      if (isOff(asBoolean(value), refusal)) ignored.set(key, 'it is off');
      else {
        const got = `expected ${orAbsent(refusal.off)}, got ${show(value)}`;
        faults.add(key, `${source.where(key)} ${key}: ${got}. ${refusal.advice}`, 'UNSUPPORTED');
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

/** A value as its key means it; null where it switches off a key that has no default. */
function inWordsOf(key: string, value: unknown): unknown {
  const accepts = (candidate: unknown) =>
    recipeSchema.shape[key as keyof RecipeKeys].safeParse(candidate).success;
  const boolean = asBoolean(value);
  const given = accepts(boolean) || !accepts(value) ? boolean : value;
  if (given !== false || accepts(false)) return given;
  if (accepts('no')) return 'no'; // eval_strategy
  if (recipeSchema.shape[key as keyof RecipeKeys].safeParse(undefined).data === undefined) return null;
  return accepts(0) ? 0 : given; // as in Python
}

function asBoolean(value: unknown): unknown {
  return typeof value === 'string' ? (FORMER_BOOLEANS.get(value.toLowerCase()) ?? value) : value;
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
