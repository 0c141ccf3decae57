import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {TransposedDense} from '../../../../layers/transposedDense.ts';
import {labelStates, targetCount, tokenLosses} from '../../../../models/batchLoss.ts';
import {AdamW, type LabelLossArgs, Llama, labelLoss, type TrainingLoss} from '../../../../src/index.ts';
import type {LossModel} from '../../../../src/training/losses/lossModel.ts';
import type {ReferenceModel} from '../../../../src/training/losses/reference.ts';
import {describeEachBackend, expectNoLeak} from '../../../describeEachBackend.ts';
import {expectClose} from '../../../expectClose.ts';
import {tinyConfig} from '../../../models/tinyLlama.ts';

interface Fixture {
  hidden: number[][][];
  reference: number[][][];
  head: number[][];
  labels: number[][];
  cases: {args: LabelLossArgs; loss: number; gradient: number[][][]}[];
  otherReference: {
    alpha: number;
    hidden: number[][][];
    head: number[][];
    loss: number;
    gradient: number[][][];
    headGradient: number[][];
  };
}
const fixture: Fixture = JSON.parse(readFileSync(join(__dirname, 'fixtures/labelLosses.json'), 'utf8'));

function headOf(weight: number[][], trainable: boolean): TransposedDense {
  const head = new TransposedDense({units: weight.length, useBias: false, name: 'lm_head'});
  head.build([null, weight[0].length]);
  head.setWeights([tf.tensor2d(weight)]);
  head.weight.trainable = trainable;
  return head;
}

/** A model whose hidden states are a tensor, and others without its adapter. */
function modelOf(
  hidden: tf.Tensor3D,
  reference: tf.Tensor3D,
  head = headOf(fixture.head, false),
): LossModel & ReferenceModel {
  const {units} = head;
  let states = hidden;
  const stub = {
    config: {vocabSize: units, maxPositionEmbeddings: 64},
    lm_head: head,
    forward: () => tf.clone(states),
  };
  return {
    lm_head: head,
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

  test('asft with another model as the reference: loss and gradients, also of the head, are those of Python', async () => {
    const {alpha, loss, gradient, headGradient, ...other} = fixture.otherReference;
    const [hidden, states] = [tf.tensor3d(fixture.hidden), tf.tensor3d(other.hidden)];
    const made = labelLoss({
      type: 'asft',
      alpha,
      reference: modelOf(states, states, headOf(other.head, true)),
    });
    const head = headOf(fixture.head, true);
    const model = modelOf(hidden, hidden, head);
    made.assertFits(model);
    const constants = made.constants?.(model, batch);
    const f = () => tf.div(made.compute(model, batch, {}, constants).loss, 6) as tf.Scalar;
    const [variable] = head.weight.variables.map((each) => each.read() as tf.Variable);
    const {value, grads} = tf.variableGrads(f, [variable]);
    expectClose(await value.data(), [loss], {relative: 1e-5});
    expectClose(await Object.values(grads)[0].data(), headGradient.flat(), {relative: 2e-5});
    const ofHidden = tf.grad((x: tf.Tensor) =>
      tf.div(made.compute(modelOf(x as tf.Tensor3D, hidden, head), batch, {}, constants).loss, 6),
    )(hidden);
    expectClose(await ofHidden.data(), gradient.flat(2), {relative: 2e-5});
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

test('a base that an initialization changed is refused as a reference', async () => {
  await tf.setBackend('cpu');
  const model = Llama.fromConfig({...tinyConfig}, {seed: 1});
  await model.applyLoRA({rank: 2}).initializeLoRA({method: 'pissa'});
  model.compile({loss: labelLoss({type: 'asft'})});
  await expect(model.trainOnBatch({inputIds: [[1, 2, 3]], labels: [[1, 2, 3]]})).rejects.toThrow(
    /reference: expected a base that is as it was loaded, got one that pissa changed/,
  );
  model.dispose();
});

test('asft trains a whole model beside a copy of it, and refuses references that it cannot share a head with', async () => {
  await tf.setBackend('cpu');
  const [model, reference] = [1, 1].map((seed) => Llama.fromConfig({...tinyConfig}, {seed}));
  const batch = {inputIds: [[1, 2, 3]], labels: [[1, 2, 3]]};
  const learned = async (type: 'dft' | 'asft') => {
    model.compile({loss: labelLoss({type, ...(type === 'asft' && {reference, alpha: 1})})});
    return (await model.computeGradients(batch)).loss;
  };
  expect(await learned('asft')).toBeCloseTo(await learned('dft'), 5); // the same weights: no divergence
  model.compile({optimizer: new AdamW({learningRate: 1e-1}), loss: labelLoss({type: 'asft', reference})});
  await model.trainOnBatch(batch);
  await expectNoLeak(async () => void (await model.trainOnBatch(batch)));
  expect(await learned('asft')).toBeGreaterThan((await learned('dft')) + 1e-3);
  const larger = Llama.fromConfig({...tinyConfig, vocabSize: 20});
  model.compile({loss: labelLoss({type: 'asft', reference: larger})});
  await expect(model.trainOnBatch(batch)).rejects.toThrow(/reference: expected 19 logits, .*got 20/);
  model.applyLoRA({adapterName: 'head', targetModules: ['lm_head'], rank: 1, modulesToSave: []});
  model.applyLoRA({adapterName: 'own', targetModules: ['q_proj'], rank: 1});
  model.compile({loss: labelLoss({type: 'asft', reference: model})});
  await expect(model.trainOnBatch(batch)).rejects.toThrow(
    /reference: expected another model, got the trained one/,
  );
  model.compile({loss: labelLoss({type: 'asft', reference: 'head'})});
  await expect(model.trainOnBatch(batch)).rejects.toThrow(/leave lm_head as it is, .*got "head"/);
  for (const each of [model, reference, larger]) each.dispose();
});

test.each<[object, RegExp]>([
  [{type: 'dtf'}, /labelLoss type: expected smoothed, dft, eaft, asft, got "dtf"/],
  [{type: 'dft', alpha: 1}, /labelLoss alpha: expected none with dft, got 1/],
  [{type: 'smoothed', alpha: 2}, /labelLoss alpha: expected a number from 0 to 1, got 2/],
  [{type: 'dft', reference: null as never}, /labelLoss reference: expected none with dft, .*got null/],
  [{type: 'dft', reference: 'a'}, /labelLoss reference: expected none with dft, .*got "a"/],
  [{type: 'eaft', alpha: -1}, /labelLoss alpha: expected a number from 0, got -1/],
])('%j is refused', (args, message) => {
  expect(() => labelLoss(args as LabelLossArgs)).toThrow(message);
});
