import {writeFileSync} from 'node:fs';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {generateIds} from '../../../models/generation/generate.ts';
import {loadPrompts, resolveTemplate, templateStopIds} from '../../../src/data/index.ts';
import {
  type FitArgs,
  Llama,
  type PredictionData,
  type PredictOptions,
  type RecordData,
  Tokenizer,
  type TrainingRecord,
} from '../../../src/index.ts';
import {predictDataset} from '../../../src/tools/evaluation/index.ts';
import {inFolder} from '../../models/tinyLlama.ts';

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

describe('predictDataset', () => {
  const asking = RECORDS.filter((record) => !('text' in record));
  const options = {maxNewTokens: 3, batchSize: 1};

  test('answers records as the prompts of a recipe, in every form of data', async () => {
    const tokenizer = model.tokenizer as Tokenizer;
    const prompts = await inFolder((folder) => {
      const file_name = join(folder, 'x.json');
      const file = [
        {instruction: 'What is red?', output: 'A colour.'},
        {instruction: 'And green?', output: 'Another.'},
      ];
      writeFileSync(file_name, JSON.stringify(file));
      return loadPrompts({dataset: 'x', datasetDir: {x: {file_name}}, tokenizer});
    });
    const eosTokenId = templateStopIds(resolveTemplate('model', tokenizer), tokenizer);
    const expected = await predictDataset(model, prompts, {...options, eosTokenId});
    expect(expected.predictions.map(({label}) => label)).toEqual(['A colour.', 'Another.']);
    const {examples} = await model.dataset(asking);
    async function* some() {
      yield* asking;
    }
    const forms = [
      asking,
      await model.dataset(asking),
      new Set(asking),
      some(),
      some,
      tf.data.array(examples as never[]) as never,
      [asking[0], prompts[1]],
      examples,
    ];
    for (const data of forms) {
      const {predictions, scores} = await model.predictDataset(data, options);
      expect({predictions, scores}).toEqual({
        predictions: expected.predictions,
        scores: expected.scores,
      });
    }
  });

  test('ends an answer where the template does, unless the caller says otherwise', async () => {
    const prompts = (await model.dataset(asking.slice(0, 1))).prompts();
    const [[first]] = await generateIds(model, [prompts[0].promptIds], {maxNewTokens: 1});
    model.generationConfig = {eosTokenId: first};
    const tokens = async (data: PredictionData, more: PredictOptions = {}) =>
      (await model.predictDataset(data, {...options, ...more})).newTokens;
    expect(await tokens(asking.slice(0, 1))).toBe(3);
    expect(await tokens(asking.slice(0, 1), {eosTokenId: first})).toBe(1);
    expect(await tokens(prompts)).toBe(1);
  });

  test('a stream is answered as it arrives', async () => {
    let read = 0;
    const seen: number[][] = [];
    async function* some() {
      for (let i = 0; i < 5; i++) {
        read++;
        yield asking[i % 2];
      }
    }
    const {predictions} = await model.predictDataset(some(), {
      ...options,
      batchSize: 2,
      onProgress: ({done, total}) => seen.push([read, done, total]),
    });
    expect(predictions).toHaveLength(5);
    expect(seen).toEqual([
      [2, 0, 2],
      [2, 2, 2],
      [4, 4, 4],
      [5, 5, 5],
    ]);
  });

  test.each<[string, unknown, string]>([
    ['a text', [{text: 'x'}], 'predictDataset record 0: expected a question and its answer, got plain text'],
    ['unknown keys', [asking[0], {a: 1}], 'predictDataset record 1: expected the keys of one of'],
    ['other names', [{question: 'a', answer: 'b'}], 'Rename question to prompt and answer to completion, or'],
    ['one other name', [{input: 'a', completion: 'b'}], 'Rename input to prompt, or'],
    ['one of Alpaca', [{instruction: 'a', input: 'b', response: 'c'}], 'Rename response to output, or'],
    ['a bare text', ['a'], 'Write a text to learn as {text: …}, and a question as {prompt: …}.'],
    ['nothing', [], 'predictDataset: expected at least one prompt, got none'],
    ['a stream of nothing', new Set(), 'predictDataset: expected at least one prompt, got none'],
    ['a record alone', asking[0], 'Put a single one into a list'],
    ['a file', 'qa.csv', 'Read a file with loadDataset('],
    ['a batch', [{inputIds: [[1, 2]], labels: [[-100, 2]]}], 'predictDataset item 0: expected a record'],
    [
      'ids without a prompt',
      [{inputIds: [1, 2]}],
      'predictDataset example 0 labels: expected -100 for the tokens',
    ],
    [
      'ids without an answer',
      [{inputIds: [1, 2], labels: [-100, -100]}],
      'and an answer after them, got no answer',
    ],
    [
      'packed ids',
      [{inputIds: [1, 2], labels: [-100, 2], attentionMask: [1, 2]}],
      'predictDataset example 0 attentionMask: expected 0 and 1',
    ],
  ])('refuses %s', async (_, data, message) => {
    const run = model.predictDataset(data as never, options);
    await expect(run).rejects.toMatchObject({
      name: 'TfjsLoraError',
      message: expect.stringContaining(message),
    });
  });
});

test('a stream is read only as far as training and evaluation have come', async () => {
  let read = 0;
  async function* some() {
    for (let i = 0; i < 6; i++) {
      read++;
      yield RECORDS[i % 3];
    }
  }
  const seen: number[] = [];
  await model.fitDataset(some(), {...QUIET, callbacks: {onStepEnd: () => void seen.push(read)}});
  expect(seen).toEqual([2, 4, 6]);
  read = 0;
  const abort = new AbortController();
  const lossSum = jest.spyOn(model, 'lossSum').mockImplementationOnce(() => {
    abort.abort(new Error(`after ${read}`));
    return tf.scalar(1);
  });
  const evaluation = model.evaluateDataset(some(), {batchSize: 2, signal: abort.signal});
  await expect(evaluation).rejects.toThrow('after 2');
  lossSum.mockRestore();
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
