import {mkdtempSync, rmSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {ValueHead} from '../../../../layers/index.ts';
import {TfjsLoraError} from '../../../../quant/errors.ts';
import {
  type FitArgs,
  type Llama,
  type PpoLossArgs,
  ppoLoss,
  type RewardFunction,
  type ScoredAnswers,
} from '../../../../src/index.ts';
import {describeFastBackends} from '../../../describeEachBackend.ts';
import {quickstartLlama} from './quickstartLlama.ts';

const prompts = [5, 6, 7].map((id) => ({inputIds: [id, 8, 9].slice(0, id - 3), record: {}}));
const lengths: RewardFunction = (_prompt, answers) => answers.map((answer) => answer.length / 10);
const SETTINGS = {rewards: lengths, epochs: 2, maxNewTokens: 3} satisfies PpoLossArgs;

describeFastBackends('ppoLoss', () => {
  let model: Llama;
  let tensorsBefore: number;
  const make = (seed?: number) => quickstartLlama(seed, {maxPositionEmbeddings: 32});
  const trained = async () =>
    (await make()).applyLoRA({rank: 2, targetModules: 'all-linear', seed: 0}).addValueHead();
  beforeEach(async () => {
    tensorsBefore = tf.memory().numTensors;
    model = await trained();
  });
  afterEach(() => {
    model.dispose();
    expect(tf.memory().numTensors).toBe(tensorsBefore);
  });

  test('a reward model and an adapter with its value head give the same scores', async () => {
    const judge = (await make()).addValueHead({seed: 3});
    const {weight, bias} = judge.valueHead!;
    const valueHead = new ValueHead({name: 'reward', seed: 3});
    valueHead.build([null, null, 16]);
    tf.tidy(() => {
      valueHead.setWeights([weight.read(), bias.read()]);
    });
    model.applyLoRA({rank: 2, targetModules: 'all-linear', adapterName: 'reward'}); // which adds nothing
    model.setAdapter('default');
    const rewards: number[][] = [];
    for (const each of [judge, {adapter: 'reward', valueHead}]) {
      model.compile({optimizer: 'sgd', loss: ppoLoss({...SETTINGS, rewards: each, bufferSize: 2})});
      const seen: ScoredAnswers[] = [];
      const callbacks = {onAnswers: (answers: ScoredAnswers[]) => void seen.push(...answers)};
      const {steps} = await model.fitDataset(prompts, {
        batchSize: 2,
        shuffle: false,
        maxSteps: 1,
        verbose: 0,
        callbacks,
      });
      rewards.push(seen.map(({rewards: [reward]}) => reward));
      expect(steps[0].gradNorm).toBeGreaterThan(0);
      expect(steps[0].metrics!.reward).toBeCloseTo(rewards[0].reduce((sum, reward) => sum + reward) / 3, 5);
      expect(steps[0].metrics!['objective/kl_coef']).toBeCloseTo(0.2);
    }
    expect(rewards[0]).toHaveLength(3); // two batches, of which the second has one prompt, in one step
    for (const [i, reward] of rewards[1].entries()) expect(reward).toBeCloseTo(rewards[0][i], 5);
    judge.dispose();
    valueHead.dispose();
  });

  test('a run resumes to the same weights, with its weight of the divergence and its scores', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'tfjs-lora-'));
    const run = async (name: string, given: Partial<FitArgs> = {}) => {
      const fresh = await trained();
      const loss = ppoLoss({...SETTINGS, scoreNorm: true, horizon: 10});
      fresh.compile({optimizer: 'adamw_torch', loss});
      const args = {batchSize: 1, gradientAccumulationSteps: 2, verbose: 0, saveSteps: 2};
      const {steps} = await fresh.fitDataset(prompts, {...args, outputDir: join(folder, name), ...given});
      const weights = await Promise.all(
        [...fresh.trainableParameters().values()].map((each) => each.array()),
      );
      fresh.dispose();
      return {steps, weights};
    };
    const whole = await run('whole', {epochs: 2});
    const coefficients = whole.steps.map(({metrics}) => metrics!['objective/kl_coef']);
    expect(new Set(coefficients).size).toBe(4); // it adapts
    const resumeFromCheckpoint = join(folder, 'whole', 'checkpoint-2');
    const resumed = await run('run', {epochs: 2, resumeFromCheckpoint});
    expect(resumed.steps.map(({metrics}) => metrics!['objective/kl_coef'])).toEqual(coefficients.slice(2));
    expect(resumed.weights).toEqual(whole.weights);
    rmSync(folder, {recursive: true});
  });

  test('needs a value head, and cannot be evaluated', async () => {
    model.compile({loss: ppoLoss(SETTINGS)});
    await expect(model.evaluateDataset(prompts)).rejects.toThrow(
      'evaluateDataset: expected a loss that can be evaluated, got ppoLoss.',
    );
    model.removeValueHead();
    await expect(model.fitDataset(prompts, {verbose: 0})).rejects.toThrow(
      'compile loss ppoLoss: expected a model with a value head that trains, got none.',
    );
  });
});

test.each([
  [
    {rewards: 'judge' as never},
    'rewards: expected a function, a model with a value head, {adapter, valueHead} or {scoreTexts}',
  ],
  [{epochs: 0}, 'epochs: expected a positive integer, got 0'],
  [{target: 0}, 'target: expected a number above 0, got 0'],
  [{lambda: 2}, 'lambda: expected a number from 0 to 1, got 2'],
  [{clipRange: 1}, 'clipRange: expected a number between 0 and 1, got 1'],
])('ppoLoss(%j) is refused', (args, message) => {
  expect(() => ppoLoss({...SETTINGS, ...args})).toThrow(TfjsLoraError);
  expect(() => ppoLoss({...SETTINGS, ...args})).toThrow(`ppoLoss ${message}`);
});
