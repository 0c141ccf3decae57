import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import {FORMER_NAMES, IGNORED_KEYS, REFUSED_KEYS} from '../../../../src/tools/recipes/foreignKeys.ts';
import {type Recipe, resolveRecipe} from '../../../../src/tools/recipes/recipe.ts';
import {recipeSchema} from '../../../../src/tools/recipes/recipeKeys.ts';
import {parseRecipeText} from '../../../../src/tools/recipes/recipeSource.ts';

interface Key {
  of: string;
  type: string;
  default: unknown;
}

// The fields of LLaMA-Factory 0.9.5's arguments, with the newest and the oldest transformers that it accepts.
const versions = JSON.parse(
  readFileSync(join(__dirname, 'fixtures/llamaFactoryKeys.json'), 'utf8'),
) as Record<string, Record<string, Key>>;
const keys = new Map(Object.values(versions).flatMap((part) => Object.entries(part)));
const optional = [...keys].filter(([name]) => name !== 'model_name_or_path');

function read(name: string, value: unknown): Recipe {
  const text = `model_name_or_path: model\n${name}: ${JSON.stringify(value)}\n`;
  return resolveRecipe(parseRecipeText(text, 'recipe.yaml'), 'recipe.yaml');
}

/** Returns the fault of a recipe with the key, if any. */
function faultOf(name: string, value: unknown): {code: string; message: string} | undefined {
  try {
    read(name, value);
    return undefined;
  } catch (error) {
    const {code, message} = error as {code: string; message: string};
    return {code, message};
  }
}

test('the list has all arguments', () => {
  expect(Object.values(versions).map((part) => Object.keys(part).length)).toEqual([370, 353]);
  for (const name of ['enable_thinking', 'use_eaft_loss', 'use_cache', 'lr_scheduler_kwargs', 'fp16_backend'])
    expect(keys.has(name)).toBe(true);
});

test('every key is known: one of ours, ignored with a reason, or refused', () => {
  const tables = [IGNORED_KEYS, REFUSED_KEYS, FORMER_NAMES];
  const unknown = [...keys.keys()].filter(
    (name) => !Object.hasOwn(recipeSchema.shape, name) && !tables.some((table) => table.has(name)),
  );
  expect(unknown).toEqual([]);
});

test.each([
  ['left empty', () => null],
  ['its default', (key: Key) => key.default],
  ['false if it has no default', (key: Key) => key.default || false],
] as const)('a key that is off is accepted: %s', (_, off) => {
  const faults = optional
    .filter(([name, key]) => name !== 'batch_size' || !off(key)) // refused: it belongs to another program
    .filter(([name, key]) => !FORMER_NAMES.has(name) || off(key) === null) // the present key has a default
    .map(([name, key]) => faultOf(name, off(key))?.message)
    .filter((message) => message !== undefined);
  expect(faults).toEqual([]);
});

test('a key that would change the result is refused by its name', () => {
  for (const [name, {off}] of REFUSED_KEYS) {
    const value = off.includes(true) ? false : 'something';
    expect(faultOf(name, value)).toEqual({
      code: 'UNSUPPORTED',
      message: expect.stringContaining(`recipe.yaml:2:${name.length + 3} ${name}: expected `),
    });
  }
});

test.each([
  ['use_galore', true, 'GaLore is not supported yet'],
  ['use_hyper_parallel', true, 'HyperParallel is not supported yet'],
  ['adafactor', true, 'Set optim: adafactor instead'],
  ['batch_size', 4, 'Set per_device_train_batch_size'],
  ['task', 'mmlu_test', 'tfjs-lora eval runs benchmarks'],
  ['lr_scheduler_type', 'reduce_lr_on_plateau', 'got "reduce_lr_on_plateau"'],
])('%s: %j is refused', (name, value, message) => {
  expect(faultOf(name, value)?.message).toContain(message);
});

test('false means no value if a key has no default, and 0 for a number', () => {
  expect(read('max_samples', false).data.maxSamples).toBeUndefined();
  expect(read('save_total_limit', 'no').fit.saveTotalLimit).toBeUndefined();
  expect(read('max_grad_norm', false).compile.maxGradNorm).toBeUndefined();
  expect(faultOf('save_steps', false)?.message).toContain('save_steps: expected a number above 0, got false');
});
