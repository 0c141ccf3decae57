import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {TransposedDense} from '../../../../layers/transposedDense.ts';
import {labelStates, targetCount, tokenLosses} from '../../../../models/batchLoss.ts';
import {AdamW, type LabelLossArgs, Llama, labelLoss, type TrainingLoss} from '../../../../src/index.ts';
import type {LossModel} from '../../../../src/training/losses/lossModel.ts';
import {describeEachBackend, expectNoLeak} from '../../../describeEachBackend.ts';
import {expectClose} from '../../../expectClose.ts';
import {tinyConfig} from '../../../models/tinyLlama.ts';

interface Fixture {
  hidden: number[][][];
  reference: number[][][];
  head: number[][];
  labels: number[][];
  cases: {args: LabelLossArgs; loss: number; gradient: number[][][]}[];
}
const fixture: Fixture = JSON.parse(readFileSync(join(__dirname, 'fixtures/labelLosses.json'), 'utf8'));

/** A model whose hidden states are a tensor, and others without its adapter. */
function modelOf(hidden: tf.Tensor3D, reference: tf.Tensor3D): LossModel {
  const [units, width] = [fixture.head.length, fixture.head[0].length];
  const head = new TransposedDense({units, useBias: false, name: 'lm_head'});
  head.build([null, width]);
  head.setWeights([tf.tensor2d(fixture.head)]);
  head.weight.trainable = false;
  let states = hidden;
  const stub = {
    config: {vocabSize: units, maxPositionEmbeddings: 64},
    lm_head: head,
    forward: () => tf.clone(states),
  };
  return {
    lossSum: () => tf.scalar(0),
    targetCount,
    tokenLosses: (batch, options = {}) => tokenLosses(stub, batch, options),
    labelStates: (batch) => labelStates(stub, batch),
    withAdapters: (_names, fn) => {
      states = reference;
      try {
        return fn();
      } finally {
        states = hidden;
      }
    },
    adapterNames: ['default'],
    activeAdapters: ['default'],
  };
}

const inputIds = fixture.labels.map((row) => row.map(() => 1));
const batch = {inputIds, labels: fixture.labels};

describeEachBackend('labelLoss', () => {
  test.each(fixture.cases)('$args: loss and gradient are those of Python', async ({args, loss, gradient}) => {
    const made = labelLoss(args);
    const [hidden, reference] = [tf.tensor3d(fixture.hidden), tf.tensor3d(fixture.reference)];
    const model = modelOf(hidden, reference);
    made.assertFits(model);
    const constants = made.constants?.(model, batch);
    expect(made.count(model, batch)).toBe(6);
    const {value, grads} = tf.valueAndGrads((x: tf.Tensor) => {
      const own = modelOf(x as tf.Tensor3D, reference);
      return tf.div(made.compute(own, batch, {}, constants).loss, 6) as tf.Scalar;
    })([hidden]);
    expectClose(await value.data(), [loss], {relative: 1e-5});
    expectClose(await grads[0].data(), gradient.flat(2), {relative: 2e-5});
  });
});

test.each<[string, TrainingLoss]>([
  ['smoothed', labelLoss({type: 'smoothed'})],
  ['eaft', labelLoss({type: 'eaft'})],
  ['asft', labelLoss({type: 'asft'})],
  ['dft', labelLoss({type: 'dft'})],
])('%s trains a model and evaluates it, and keeps no tensors', async (_type, loss) => {
  await tf.setBackend('cpu');
  const model = Llama.fromConfig({...tinyConfig}, {seed: 1});
  model.applyLoRA({rank: 2});
  model.compile({optimizer: new AdamW({learningRate: 1e-2}), loss});
  const data = [{inputIds: [1, 2, 3, 4]}, {inputIds: [4, 3, 2, 1], labels: [-100, 3, 2, 1]}];
  const batch = {inputIds: [[1, 2, 3, 4]], labels: [[1, 2, 3, 4]]};
  const crossEntropy = () => tf.tidy(() => model.lossSum(batch).dataSync()[0]); // dft's own loss rises as p does
  const before = crossEntropy();
  await model.fitDataset(data, {epochs: 6, verbose: 0});
  expect(crossEntropy()).toBeLessThan(before);
  const {perplexity} = await model.evaluateDataset(data);
  expect(perplexity).toBeNaN();
  await expectNoLeak(
    async () => void (await model.trainOnBatch({inputIds: [[1, 2, 3]], labels: [[1, 2, 3]]})),
  );
  model.dispose();
});

test('asft compares with the model without its adapter, whose head must not train', async () => {
  await tf.setBackend('cpu');
  const model = Llama.fromConfig({...tinyConfig}, {seed: 1});
  const step = () => model.trainOnBatch({inputIds: [[1, 2, 3]], labels: [[1, 2, 3]]});
  model.compile({loss: labelLoss({type: 'asft'})});
  await expect(step()).rejects.toThrow(/labelLoss asft: expected an adapter/);
  model.applyLoRA({rank: 2, targetModules: ['q_proj']});
  const {loss} = await step(); // B is 0: no divergence
  model.compile({loss: labelLoss({type: 'dft'})});
  expect((await model.computeGradients({inputIds: [[1, 2, 3]], labels: [[1, 2, 3]]})).loss).toBeCloseTo(
    loss,
    2,
  );
  model.dispose();
});

test.each<[object, RegExp]>([
  [{type: 'dtf'}, /labelLoss type: expected smoothed, dft, eaft, asft, got "dtf"/],
  [{type: 'dft', alpha: 1}, /labelLoss alpha: expected none with dft, got 1/],
  [{type: 'smoothed', alpha: 2}, /labelLoss alpha: expected a number from 0 to 1, got 2/],
  [{type: 'eaft', alpha: -1}, /labelLoss alpha: expected a number from 0, got -1/],
])('%j is refused', (args, message) => {
  expect(() => labelLoss(args as LabelLossArgs)).toThrow(message);
});
