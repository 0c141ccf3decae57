import type {z} from 'zod';
import {type ErrorCode, similarName} from '../../../quant/errors.ts';
import {expandHome} from '../../../quant/folders/expandHome.ts';
import {show} from '../../../quant/show.ts';
import {choicesOf, describeType} from './describeType.ts';
import {Faults} from './faults.ts';
import {
  FORMER_NAMES,
  IGNORED_KEYS,
  isOff,
  PEERS_NAMES,
  REFUSED_KEYS,
  type RefusedKey,
} from './foreignKeys.ts';
import {type RecipeKeys, recipeSchema} from './recipeKeys.ts';
import {brokenRules, type Purpose} from './recipeRules.ts';
import type {RecipeSource} from './recipeSource.ts';

export interface ParsedRecipe {
  keys: RecipeKeys;
  /** Keys in the recipe that have no meaning here, each with the reason. */
  ignored: Map<string, string>;
}

/** Words that are booleans in YAML 1.1, which recipes are written for. */
const FORMER_BOOLEANS: ReadonlyMap<unknown, boolean> = new Map([
  ['true', true],
  ['yes', true],
  ['on', true],
  ['false', false],
  ['no', false],
  ['off', false],
]);

/**
 * Checks a recipe's keys, the type of every value, and the rules between keys, and reports all faults in one error.
 *
 * @throws TfjsLoraError `INVALID_CONFIG` or `UNSUPPORTED`, one line for each fault, with file, line and column
 */
export function parseRecipe(source: RecipeSource, purpose: Purpose): ParsedRecipe {
  const known: Record<string, unknown> = {};
  const writtenAs = new Map<string, string>();
  const unclear = new Set<string>(); // keys with a wrong value or a misspelled name
  const ignored = new Map<string, string>();
  const faults = new Faults([...source.values.keys()]);
  for (const [written, value] of source.values) {
    const key = FORMER_NAMES.get(written) ?? written;
    if (Object.hasOwn(recipeSchema.shape, key)) {
      if (writtenAs.has(key)) {
        faults.add(written, `${source.whereKey(written)} ${written}: expected ${key} once, got it twice`);
      }
      writtenAs.set(key, written);
      const given = inWordsOf(key, PATH_KEYS.has(key) ? withHome(value) : value);
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
      const nearest = nearestKey(key);
      if (nearest !== undefined && !source.values.has(nearest)) unclear.add(nearest);
      const advice =
        nearest === undefined ? 'docs/recipes.md lists all keys. Remove it.' : `Did you mean ${nearest}?`;
      const message = `expected a key of a recipe, got an unknown one. ${advice}`;
      faults.add(key, `${source.whereKey(key)} ${key}: ${message}`);
    }
  }
  const add = (key: string, path: string, message: string, code?: ErrorCode) => {
    const written = writtenAs.get(key) ?? key;
    faults.add(written, `${source.where(written)} ${path}: ${message}`, code);
  };
  const keys: Record<string, unknown> = {};
  for (const [key, schema] of Object.entries<z.ZodType>(recipeSchema.shape)) {
    const {data, error} = schema.safeParse(known[key]);
    keys[key] = error ? schema.safeParse(undefined).data : data;
    if (error) unclear.add(key);
    for (const issue of error?.issues ?? [])
      add(key, [key, ...issue.path].join('.'), complaint(issue, key, known[key]));
  }
  for (const {key, message, code} of brokenRules(keys as RecipeKeys, unclear, purpose))
    add(key, key, message, code);
  faults.throwIfAny();
  return {keys: keys as RecipeKeys, ignored};
}

/** Keys whose values are paths. */
const PATH_KEYS: ReadonlySet<string> = new Set([
  'model_name_or_path',
  'adapter_name_or_path',
  'cache_dir',
  'dataset_dir',
  'output_dir',
  'export_dir',
  'save_dir',
  'task_dir',
  'ref_model',
  'ref_model_adapters',
  'reward_model',
  'reward_model_adapters',
  'resume_from_checkpoint',
] satisfies (keyof RecipeKeys)[]);

/** Expands `~/` in paths, which no shell does in a file; transformers does it in `output_dir`. */
function withHome(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withHome);
  if (typeof value !== 'string') return value;
  return value.replace(/(^|,\s*)(~\/)/g, (_, before, home) => `${before}${expandHome(home)}/`);
}

/** Returns a value as its key means it, or null if it turns off a key without a default. */
function inWordsOf(key: string, value: unknown): unknown {
  const accepts = (candidate: unknown) =>
    recipeSchema.shape[key as keyof RecipeKeys].safeParse(candidate).success;
  const boolean = asBoolean(value);
  const given = accepts(boolean) || !accepts(value) ? boolean : value;
  if (given !== false || accepts(false)) return given;
  if (accepts('no') && !accepts('any text')) return 'no'; // eval_strategy
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
  return `expected ${expected}, got ${show(value)}${adviceForValue(key, value)}`;
}

function adviceForValue(key: string, value: unknown): string {
  if (key === 'finetuning_type' && value === 'qlora')
    return '. Set finetuning_type=lora and quantization_bit=4.';
  if (key === 'temperature' && value === 0) return '. Set do_sample=false to take the likeliest tokens.';
  const similar =
    typeof value === 'string' &&
    similarName(value.toLowerCase(), choicesOf(recipeSchema.shape[key as keyof RecipeKeys]));
  return similar ? `. Did you mean ${similar}?` : '';
}

function nearestKey(key: string): string | undefined {
  return (
    PEERS_NAMES.get(key) ?? similarName(key, [...Object.keys(recipeSchema.shape), ...IGNORED_KEYS.keys()])
  );
}

function orAbsent(off: readonly unknown[]): string {
  return off.length > 0 ? `${off.map(show).join(' or ')}, or no such key` : 'no such key';
}

/** Whether a key of this name can be in a recipe, even one that is ignored or refused here. */
export function isRecipeKey(name: string): boolean {
  return [recipeSchema.shape, FORMER_NAMES, IGNORED_KEYS, REFUSED_KEYS].some((keys) =>
    keys instanceof Map ? keys.has(name) : Object.hasOwn(keys, name),
  );
}
