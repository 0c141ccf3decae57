import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import {learningRateSchedule, type ScheduleName} from '../../../src/index.ts';
import type {RecipeKeys} from '../../../src/tools/recipes/recipeKeys.ts';
import {scheduleOf} from '../../../src/tools/recipes/scheduleOf.ts';

const {learningRate, runs} = JSON.parse(
  readFileSync(join(__dirname, 'fixtures', 'schedules.json'), 'utf8'),
) as {
  learningRate: number;
  runs: {
    name: ScheduleName;
    settings: RecipeKeys['lr_scheduler_kwargs'];
    warmupSteps: number;
    totalSteps: number;
    factors: number[];
  }[];
};

test.each(runs)(
  '$name $settings, warm-up $warmupSteps of $totalSteps, as in transformers',
  ({name, settings, factors, ...lengths}) => {
    const {name: _, ...args} = scheduleOf(name, settings, learningRate);
    const factorAt = learningRateSchedule(name, {...args, ...lengths, learningRate});
    for (const [step, factor] of factors.entries()) expect(factorAt(step)).toBeCloseTo(factor, 9);
  },
);

test('a ratio of the run is rounded up, and steps override it', () => {
  const factorAt = learningRateSchedule('linear', {totalSteps: 25, warmupRatio: 0.1}); // 2.5 → 3
  expect([0, 1, 2, 3].map(factorAt)).toEqual([0, 1 / 3, 2 / 3, 1]);
  const bySteps = learningRateSchedule('linear', {totalSteps: 25, warmupRatio: 0.1, warmupSteps: 2});
  expect(bySteps(1)).toBe(0.5);
  const byNone = learningRateSchedule('linear', {totalSteps: 25, warmupRatio: 0.1, warmupSteps: 0}); // as in transformers
  expect(byNone(1)).toBe(1 / 3);
});

test.each([
  ['linaer', {totalSteps: 5}, 'Did you mean linear?'],
  ['toString', {totalSteps: 5}, 'expected one of constant,'],
  ['cosine', {}, 'learning rate schedule "cosine": expected totalSteps, got none'],
  ['constant_with_warmup', {warmupRatio: 0.1}, 'expected totalSteps, got none'],
  ['cosine', {totalSteps: 5, warmupRatio: 1.5}, 'warmupRatio: expected a number from 0 to 1, got 1.5'],
  ['cosine', {totalSteps: 5, warmupSteps: -1}, 'warmupSteps: expected a number'],
  ['cosine', {totalSteps: Number.NaN}, 'totalSteps: expected a number'],
  ['cosine_with_min_lr', {totalSteps: 5}, '"cosine_with_min_lr" finalFactor: expected a number, got none'],
  ['warmup_stable_decay', {totalSteps: 5}, 'decaySteps: expected a number, got none'],
  ['warmup_stable_decay', {decaySteps: 2}, 'expected totalSteps, got none'],
  ['warmup_stable_decay', {totalSteps: 5, decaySteps: -2}, 'decaySteps: expected a number ≥ 0, got -2'],
  [
    'warmup_stable_decay',
    {totalSteps: 5, decaySteps: 2, decayType: 'square' as never},
    'decayType: expected linear, cosine, 1-sqrt, got square',
  ],
])('%s %o is refused', (name, args, message) => {
  expect(() => learningRateSchedule(name as ScheduleName, args)).toThrow(message);
});
