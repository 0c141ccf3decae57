import * as tf from '@tensorflow/tfjs';
import {type CallbackLike, type Example, Trainer} from '../../../src/index.ts';
import {BigramModel} from './bigramModel.ts';

const EXAMPLES: Example[] = [
  [1, 2],
  [2, 3],
  [3, 4],
].map((inputIds) => ({inputIds}));

let model: BigramModel;
let trainer: Trainer;

beforeEach(() => {
  model = new BigramModel();
  trainer = new Trainer(model);
});
afterEach(() => {
  trainer.dispose();
  model.table.dispose();
});

const run = (callbacks: CallbackLike | CallbackLike[], args: object = {}) =>
  trainer.fit(EXAMPLES, {batchSize: 2, verbose: 0, callbacks, ...args});

test('are called in order, each awaited', async () => {
  const events: string[] = [];
  const note = (event: string) => async () => {
    await new Promise((resume) => setTimeout(resume));
    events.push(event);
  };
  await run(
    {
      onTrainBegin: note('train'),
      onEpochBegin: note('epoch'),
      onStepBegin: note('step'),
      onBatchBegin: note('batch'),
      onStepEnd: note('step end'),
      onBatchEnd: note('batch end'),
      onEvaluate: note('evaluation'),
      onEpochEnd: note('epoch end'),
      onTrainEnd: note('train end'),
      onTrainError: note('error'),
    },
    {validationData: EXAMPLES},
  );
  const step = ['step', 'batch', 'step end', 'batch end'];
  expect(events).toEqual(['train', 'epoch', ...step, ...step, 'evaluation', 'epoch end', 'train end']);
});

test('a Keras callback gets numbers only, counted from 0, and the parameters of the run', async () => {
  const batches: [number, unknown][] = [];
  const epochs: [number, unknown][] = [];
  const callback = new tf.CustomCallback(
    {
      onBatchEnd: async (batch, logs) => void batches.push([batch, logs]),
      onEpochEnd: async (epoch, logs) => void epochs.push([epoch, logs]),
    },
    'batch',
  );
  async function* data() {
    yield* EXAMPLES; // of unknown length
  }
  const {steps, history} = await trainer.fit(data(), {batchSize: 2, verbose: 0, callbacks: callback});
  expect(batches).toEqual([
    [0, steps[0]],
    [1, steps[1]],
  ]);
  expect(epochs).toEqual([[0, {loss: history.loss[0]}]]);
  expect(callback.params).toMatchObject({epochs: 1, batchSize: 2, doValidation: false});
});

test('are called with the error that ended training, instead of its end', async () => {
  const events: unknown[] = [];
  model.spoil = (call) => (call === 1 ? Number.NaN : 1);
  const broken = run(
    {
      onTrainError: (error) => void events.push(error),
      onTrainEnd: () => void events.push('end'),
    },
    {maxNonFiniteSteps: 1},
  );
  await expect(broken).rejects.toMatchObject({code: 'NON_FINITE'});
  expect(events).toEqual([expect.objectContaining({code: 'NON_FINITE'})]);
  expect(trainer.history?.steps).toHaveLength(2); // the completed steps are still there
});

test('an error in one ends training', async () => {
  const failing = () => {
    throw new Error('disk full');
  };
  await expect(run(failing)).rejects.toThrow('disk full');
  expect((await run([])).steps).toHaveLength(2);
});
