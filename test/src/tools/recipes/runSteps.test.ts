import {resolveRecipe} from '../../../../src/tools/recipes/recipe.ts';
import {parseRecipeText} from '../../../../src/tools/recipes/recipeSource.ts';
import {type RunSteps, runSteps} from '../../../../src/tools/recipes/runSteps.ts';

function stepsOf(examples: number | undefined, ...keys: string[]): RunSteps {
  return runSteps(
    resolveRecipe(parseRecipeText('model_name_or_path: m', 'recipe.yaml', keys), 'recipe.yaml'),
    examples,
  );
}

// transformers' Trainer counts 225 batches for 900 examples in batches of 4, and 29 steps in windows of 8 batches.
const guide = ['per_device_train_batch_size=4', 'gradient_accumulation_steps=8', 'num_train_epochs=1'];

test("the reference guide's run", () => {
  expect(
    stepsOf(900, ...guide, 'warmup_ratio=0.1', 'logging_steps=2', 'save_steps=50', 'eval_steps=50'),
  ).toEqual({
    examples: 900,
    perEpoch: 29,
    total: 29,
    warmup: 3,
    logging: 2,
    saving: 50,
    evaluation: 50,
  });
});

test('fractions of an epoch and max_steps', () => {
  expect(stepsOf(900, ...guide, 'num_train_epochs=1.5').total).toBe(44); // 43.5
  expect(stepsOf(900, ...guide, 'num_train_epochs=3').total).toBe(87);
  expect(stepsOf(900, ...guide, 'num_train_epochs=0.01').total).toBe(1);
  expect(stepsOf(900, ...guide, 'max_steps=100')).toMatchObject({total: 100, perEpoch: 29});
  expect(stepsOf(undefined, ...guide, 'max_steps=100')).toMatchObject({total: 100, perEpoch: undefined});
});

test('intervals below 1 are shares of the run, rounded up', () => {
  const shares = ['logging_steps=0.01', 'save_steps=0.5', 'eval_steps=0.25', 'warmup_steps=0.05'];
  expect(stepsOf(900, ...guide, 'max_steps=50', ...shares)).toMatchObject({
    logging: 1,
    saving: 25,
    evaluation: 13,
    warmup: 3,
  });
});

test('warm-up steps override the ratio; eval_steps is logging_steps by default', () => {
  expect(stepsOf(900, ...guide, 'warmup_ratio=0.5', 'warmup_steps=4').warmup).toBe(4);
  expect(stepsOf(900, ...guide, 'logging_steps=7').evaluation).toBe(7);
});
