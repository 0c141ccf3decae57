import * as tf from '@tensorflow/tfjs';
import {AdamW, collate, type FitArgs, type Llama, rewardLoss} from '../../../../src/index.ts';
import {describeFastBackends} from '../../../describeEachBackend.ts';
import {errorOf, inFolder} from '../../../models/tinyLlama.ts';
import {quickstartLlama} from './quickstartLlama.ts';

const pairs = [
  {prompt: 'What is water?', chosen: 'Wet.', rejected: 'A stone of some kind.'},
  {prompt: 'And fire?', chosen: 'Hot.', rejected: 'Cold.'},
  {prompt: 'And ice?', chosen: 'Frozen water.', rejected: 'A kind of bird.'},
];
const answers = pairs.flatMap(({prompt, chosen, rejected}) =>
  [chosen, rejected].map((completion) => ({prompt, completion})),
);

/** Makes a model with an adapter and a value head, which drops inputs. */
async function rewardModel(extra: (model: Llama) => unknown = () => {}): Promise<Llama> {
  const model = await quickstartLlama(1, {hiddenSize: 8});
  await extra(model);
  model.applyLoRA({rank: 2, targetModules: 'all-linear', seed: 0});
  model.addValueHead({seed: 2, dropout: 0.1});
  return model;
}

describeFastBackends('rewardLoss', () => {
  let tensorsBefore: number;
  beforeEach(() => {
    tensorsBefore = tf.memory().numTensors;
  });
  afterEach(() => expect(tf.memory().numTensors).toBe(tensorsBefore));

  test('learns which answer is better, on a quantized base, and scores answers so', async () => {
    const model = await rewardModel((base) => base.quantize({type: 'nf4'}));
    const optimizer = new AdamW({learningRate: 0.05});
    model.compile({optimizer, loss: rewardLoss()});
    const {steps} = await model.fitDataset(pairs, {epochs: 10, batchSize: 3, verbose: 0});
    expect(steps[0].tokens).toBe(3);
    expect(steps.at(-1)!.loss).toBeLessThan(0.7 * steps[0].loss);
    const {loss, metrics, examples} = await model.evaluateDataset(pairs, {batchSize: 2});
    const scores = await model.score(answers, {batchSize: 4});
    const margins = [0, 2, 4].map((i) => scores[i] - scores[i + 1]);
    expect(metrics).toEqual({accuracy: margins.filter((margin) => margin > 0).length / 3});
    expect(metrics!.accuracy).toBe(1);
    expect(examples).toBe(3);
    const losses = margins.map((margin) => Math.log1p(Math.exp(-margin)));
    expect(loss).toBeCloseTo(losses.reduce((sum, value) => sum + value) / 3, 4);
    expect((await model.score(await model.dataset([answers[3]])))[0]).toBeCloseTo(scores[3], 4);
    optimizer.dispose();
    model.dispose();
  });

  test('resumes bit for bit, dropout included', () =>
    inFolder(async (outputDir) => {
      const run = async (args: FitArgs) => {
        const model = await rewardModel();
        const optimizer = new AdamW({learningRate: 0.02});
        model.compile({optimizer, loss: rewardLoss()});
        const {steps} = await model.fitDataset(pairs, {epochs: 3, batchSize: 1, verbose: 0, ...args});
        const weights = [...model.trainableParameters()].map(([key, weight]) => [
          key,
          [...weight.dataSync()],
        ]);
        optimizer.dispose();
        model.dispose();
        return {losses: steps.map(({loss}) => loss), weights};
      };
      const whole = await run({});
      const controller = new AbortController();
      const callbacks = {onStepBegin: (step: number) => void (step === 5 && controller.abort())};
      const first = await run({outputDir, signal: controller.signal, callbacks});
      const rest = await run({outputDir, resumeFromCheckpoint: true});
      expect(first.losses).toHaveLength(5);
      expect([...first.losses, ...rest.losses]).toEqual(whole.losses);
      expect(rest.weights).toEqual(whole.weights);
    }));

  test('refuses a model without a value head, and what is no pair or no answer', async () => {
    const model = await rewardModel();
    model.compile({loss: rewardLoss()});
    await expect(model.fitDataset(answers, {verbose: 0})).rejects.toThrow(
      'example 0: expected a pair {chosen, rejected}, which the compiled loss compares',
    );
    await expect(model.trainOnBatch(collate([...(await model.dataset([answers[0]]))]))).rejects.toThrow(
      'rewardLoss batch inputIds: expected pairs, the chosen answers before the rejected ones, got 1 rows',
    );
    expect(await errorOf(() => model.score(pairs))).toMatchObject({
      message: expect.stringContaining('score example 0: expected a single answer, got a pair.'),
    });
    await expect(model.score(answers, {batchSize: 0})).rejects.toThrow(
      'score batchSize: expected a whole number',
    );
    model.removeValueHead();
    await expect(model.fitDataset(pairs, {verbose: 0})).rejects.toThrow(
      'compile loss rewardLoss: expected a model with a value head, got one without.',
    );
    await expect(model.score(answers)).rejects.toMatchObject({code: 'UNSUPPORTED'});
    model.dispose();
  });
});
