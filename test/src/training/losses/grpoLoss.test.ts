import {mkdtempSync, rmSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {TfjsLoraError} from '../../../../quant/errors.ts';
import {
  AdamW,
  type FitArgs,
  type GrpoLossArgs,
  grpoLoss,
  type Llama,
  type RewardFunction,
  type ScoredAnswers,
} from '../../../../src/index.ts';
import {describeFastBackends} from '../../../describeEachBackend.ts';
import {quickstartLlama} from './quickstartLlama.ts';

const prompts = [
  {prompt: 'What is water?', wanted: 'e'},
  {prompt: [{role: 'user', content: 'And fire?'}], wanted: 'e'},
  {prompt: 'What is air?', wanted: 'e'},
];

/** Rewards answers for a letter that the record names. */
const letters = (_prompt: string, answers: string[], {wanted}: {wanted: string}) =>
  answers.map((answer) => answer.split(wanted).length - 1);

const SETTINGS = {rewards: letters, generations: 3, maxNewTokens: 4} satisfies GrpoLossArgs;

describeFastBackends('grpoLoss', () => {
  let model: Llama;
  let tensorsBefore: number;
  const make = async () => {
    const made = await quickstartLlama();
    made.applyLoRA({rank: 2, targetModules: 'all-linear', seed: 0});
    return made;
  };
  beforeEach(async () => {
    tensorsBefore = tf.memory().numTensors;
    model = await make();
  });
  afterEach(() => {
    model.dispose();
    expect(tf.memory().numTensors).toBe(tensorsBefore);
  });

  test('answers prompts in groups, rates them and learns from the rewards', async () => {
    const optimizer = new AdamW({learningRate: 0.01});
    model.compile({optimizer, loss: grpoLoss({...SETTINGS, beta: 0.1, iterations: 2})});
    const seen: ScoredAnswers[] = [];
    let clock = 0;
    const now = jest.spyOn(performance, 'now').mockImplementation(() => (clock += 2000)); // progress comes each second
    const progress: number[] = [];
    const {steps} = await model.fitDataset(prompts, {
      batchSize: 2,
      shuffle: false,
      verbose: 0,
      callbacks: {
        onAnswers: (answers) => void seen.push(...answers),
        onPredict: ({done, total}, step) => void progress.push(done, total, step),
      },
    });
    now.mockRestore();
    expect(progress.slice(0, 3)).toEqual([0, 6, 0]);
    expect(steps.map(({step}) => step)).toEqual([1, 2]);
    expect(seen.map(({answers, rewards}) => [answers.length, rewards.length])).toEqual([
      [3, 3],
      [3, 3],
      [3, 3],
    ]);
    expect(seen[0].prompt).toBe('What is water?');
    expect(seen[1].prompt).toContain('And fire?');
    for (const {answers, rewards} of seen)
      expect(rewards).toEqual(answers.map((answer) => answer.split('e').length - 1));
    const mean = seen.slice(0, 2).flatMap(({rewards}) => rewards);
    expect(steps[0].metrics!.reward).toBeCloseTo(mean.reduce((sum, reward) => sum + reward) / 6, 5);
    expect(steps[0].metrics).toMatchObject({'rewards/letters/mean': steps[0].metrics!.reward});
    expect(steps[0].metrics!['completions/mean_length']).toBeLessThanOrEqual(4);
    expect(steps[0].gradNorm).toBeGreaterThan(0);
    const {metrics, examples} = await model.evaluateDataset(prompts, {batchSize: 2});
    expect(examples).toBe(3);
    expect(metrics!.kl).toBeGreaterThan(0);
    optimizer.dispose();
  });

  test('a run that is stopped while it answers resumes to the same weights', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'tfjs-lora-'));
    const ids = [5, 6, 7].map((id) => ({inputIds: [id, 8, 9], record: {}}));
    const long: RewardFunction = (_, answers) => answers.map((answer) => answer.length);
    const run = async (name: string, given: Partial<FitArgs> = {}, rewards = long) => {
      const fresh = await make();
      const loss = grpoLoss({...SETTINGS, generations: 2, maxNewTokens: 3, iterations: 2, rewards});
      fresh.compile({optimizer: 'paged_adamw_32bit', loss});
      const args = {epochs: 2, batchSize: 1, gradientAccumulationSteps: 2, verbose: 0};
      const history = await fresh.fitDataset(ids, {...args, outputDir: join(folder, name), ...given});
      const weights = await Promise.all(
        [...fresh.trainableParameters().values()].map((each) => each.array()),
      );
      fresh.dispose();
      return {history, weights};
    };
    const whole = await run('whole');
    expect(whole.history.steps.every(({gradNorm}) => gradNorm > 0)).toBe(true);
    const controller = new AbortController();
    let calls = 0;
    const stopping: RewardFunction = (prompt, answers, record) => {
      if (++calls === 4) controller.abort(); // in the third step
      return long(prompt, answers, record);
    };
    const stopped = await run('run', {signal: controller.signal}, stopping);
    expect(stopped.history.isInterrupted).toBe(true);
    const resumed = await run('run', {resumeFromCheckpoint: true});
    expect(resumed.history.steps.map(({step}) => step)).toEqual([3, 4]);
    expect(resumed.weights).toEqual(whole.weights);
    rmSync(folder, {recursive: true});
  });

  test('names what it cannot learn from', async () => {
    model.compile({loss: grpoLoss({...SETTINGS, rewards: () => [1, 2]})});
    await expect(model.fitDataset(prompts, {verbose: 0})).rejects.toThrow(
      'rewards rewards: expected 3 numbers or nulls, one for each answer, got [1,2]',
    );
    await expect(model.trainOnBatch({inputIds: [[1, 2]], labels: [[1, 2]]})).rejects.toThrow(
      'grpoLoss dapo: expected answers that the model has given in fitDataset, got a batch of token ids.',
    );
    const batch = {inputIds: [[1, 2]], labels: [[1, 2]]};
    await expect(model.fitDataset([batch], {verbose: 0})).rejects.toThrow(
      'expected prompts, which the compiled loss',
    );
    model.tokenizer = undefined;
    await expect(model.fitDataset([{inputIds: [1, 2, 3]}], {verbose: 0})).rejects.toThrow(
      'compile loss grpoLoss dapo: expected a model with a tokenizer',
    );
  });
});

test.each([
  [{rewards: 1 as never}, 'rewards: expected a function or a list of functions'],
  [{generations: 1}, 'generations: expected an integer from 2, got 1'],
  [{rewardWeights: [1, 2]}, 'rewardWeights: expected 1 numbers, one for each function, got [1,2]'],
  [{type: 'ppo' as never}, 'type: expected grpo, bnpo, dr_grpo, dapo, got "ppo"'],
  [{reference: 'sft'}, 'reference: expected none without beta, got "sft"'],
  [{temperature: 0}, 'temperature: expected a number above 0, got 0'],
])('grpoLoss(%j) is refused', (args, message) => {
  expect(() => grpoLoss({...SETTINGS, ...args})).toThrow(TfjsLoraError);
  expect(() => grpoLoss({...SETTINGS, ...args})).toThrow(`grpoLoss ${message}`);
});
