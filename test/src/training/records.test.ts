import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {type FitArgs, Llama, type RecordData, Tokenizer, type TrainingRecord} from '../../../src/index.ts';

const FOLDER = join(__dirname, '../../../examples/quickstart/model');
const QUIET = {verbose: 0, batchSize: 2};
const RECORDS: TrainingRecord[] = [
  {prompt: 'What is red?', completion: 'A colour.'},
  {text: 'The House met.'},
  {
    messages: [
      {role: 'user', content: 'And green?'},
      {role: 'assistant', content: 'Another.'},
    ],
  },
];

let model: Llama;
beforeEach(async () => {
  await tf.setBackend('cpu');
  model = await small();
});
afterEach(() => model.dispose());

async function small(): Promise<Llama> {
  const config = {
    vocabSize: 2048,
    hiddenSize: 8,
    intermediateSize: 8,
    numHiddenLayers: 1,
    numAttentionHeads: 2,
    numKeyValueHeads: 1,
    maxPositionEmbeddings: 64,
  };
  const model = Llama.fromConfig(config, {seed: 1});
  model.tokenizer = await Tokenizer.fromFolder(FOLDER);
  model.applyLoRA({rank: 2, seed: 1});
  model.compile({optimizer: tf.train.sgd(0.1)});
  return model;
}

async function* arriving() {
  yield* RECORDS;
}

test('records are evaluated as their examples are, in every form of data', async () => {
  const {examples} = await model.dataset(RECORDS);
  const expected = await model.evaluateDataset(examples);
  const forms = [
    RECORDS,
    await model.dataset(RECORDS),
    new Set(RECORDS),
    arriving(),
    arriving,
    [RECORDS[0], examples[1], RECORDS[2]],
  ];
  for (const data of forms)
    expect(await model.evaluateDataset(data)).toMatchObject({loss: expected.loss, tokens: expected.tokens});
});

test('records train as their examples do', async () => {
  const {examples} = await model.dataset(RECORDS);
  const trainedOn = async (data: RecordData, args: FitArgs) => {
    const fresh = await small();
    const {history} = await fresh.fitDataset(data, {...QUIET, ...args});
    const weights = [...fresh.trainableParameters().values()].map((weight) => weight.arraySync());
    fresh.dispose();
    return {history, weights};
  };
  const expected = await trainedOn(examples, {validationData: examples});
  expect(await trainedOn(RECORDS, {validationData: RECORDS})).toEqual(expected);
  const dataset = await model.dataset(RECORDS);
  expect(await trainedOn(dataset, {validationData: () => arriving()})).toEqual(expected);
  const inOrder = await trainedOn(examples, {shuffle: false});
  expect(await trainedOn(arriving, {})).toEqual(inOrder);
});

test('a record that cannot be read is named before training, or when a stream comes to it', async () => {
  const bad = [RECORDS[0], {question: 'a'}] as TrainingRecord[];
  const error = (call: string) => ({
    code: 'INVALID_ARGUMENT',
    message: expect.stringContaining(`${call} record 1: expected the keys of one of`),
  });
  await expect(model.fitDataset(bad, QUIET)).rejects.toMatchObject(error('fitDataset'));
  await expect(model.fitDataset(() => bad, QUIET)).rejects.toMatchObject(error('fitDataset'));
  await expect(model.evaluateDataset(bad)).rejects.toMatchObject(error('evaluateDataset'));
  const validation = model.fitDataset(RECORDS, {...QUIET, validationData: bad});
  await expect(validation).rejects.toMatchObject(error('fitDataset validationData'));
  await expect(model.fitDataset(RECORDS, {...QUIET, cutoffLength: 8} as never)).rejects.toMatchObject({
    message: expect.stringContaining('model.dataset(records, {cutoffLength: 2048})'),
  });
});

test('a model without a tokenizer says so', async () => {
  model.tokenizer = undefined;
  await expect(model.fitDataset(RECORDS, QUIET)).rejects.toMatchObject({
    code: 'UNSUPPORTED',
    message: expect.stringContaining('fitDataset records: expected a model with a tokenizer'),
  });
});
