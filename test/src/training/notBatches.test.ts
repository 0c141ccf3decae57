import * as tf from '@tensorflow/tfjs';
import {Llama} from '../../../src/index.ts';
import {errorOf, tinyConfig} from '../../models/tinyLlama.ts';

const rows = [[1, 2, 3]];
const batch = {inputIds: rows, labels: rows};

let model: Llama;
beforeAll(async () => {
  await tf.setBackend('cpu');
  model = Llama.fromConfig(tinyConfig).applyLoRA({rank: 1}) as Llama;
});
afterAll(() => model.dispose());

/** Calls a method as JavaScript may: with any arguments. */
const call = (method: 'trainOnBatch' | 'computeGradients' | 'lossSum', ...args: unknown[]) =>
  errorOf(() => (model[method] as (...args: unknown[]) => unknown)(...args));

const KERAS = 'Pass the labels in the batch, not shifted: trainOnBatch({inputIds: x, labels: x}).';

test.each<[string, unknown[], string]>([
  ["Keras's x and y", [rows, rows], `got x and y. ${KERAS}`],
  ["Keras's x and y as tensors", [tf.ones([1, 3]), tf.ones([1, 3])], `got x and y. ${KERAS}`],
  ['a batch and y', [batch, rows], `got x and y. ${KERAS}`],
  ['x alone', [rows], `got [[1,2,3]]. ${KERAS}`],
  ['a tensor', [tf.ones([1, 3])], `got a tensor [1,3]. ${KERAS}`],
  ['nothing', [], 'got undefined'],
  ['one example', [{inputIds: [1, 2], labels: [1, 2]}], 'got one example. Put examples into rows'],
  ['records', [[{prompt: 'a', completion: 'b'}]], 'Pass records of text to fitDataset'],
  ['labels of another kind', [{inputIds: rows, labels: 5}], 'trainOnBatch labels: expected a batch'],
])('trainOnBatch refuses %s', async (_, args, message) => {
  const error = await call('trainOnBatch', ...args);
  expect(error.code).toBe('INVALID_ARGUMENT');
  expect(error.message).toMatch(/^trainOnBatch.*: expected a batch \{inputIds, labels\} of rows or tensors/);
  expect(error.message).toContain(message);
});

test.each([
  ['input_ids', 'Use inputIds.'],
  ['attention_mask', 'Use attentionMask.'],
  ['position_ids', 'Use positionIds.'],
  ['attentionMsk', 'Did you mean attentionMask?'],
])('a key %s is refused wherever batches and examples are read', async (key, advice) => {
  const wrong = {...batch, [key]: rows};
  expect((await call('trainOnBatch', wrong)).message).toContain(advice);
  expect((await call('computeGradients', [batch, wrong])).message).toContain(advice);
  expect((await call('lossSum', wrong)).message).toContain(advice);
  expect((await errorOf(() => model.fitDataset([wrong], {verbose: 0}))).message).toContain(advice);
});

test('an example with a key in another spelling is refused by its index', async () => {
  const good = {inputIds: [1, 2, 3]};
  const wrong = {...good, attention_mask: [1, 1, 0]};
  const message =
    'example 1 attention_mask: expected attentionMask, got another spelling of it. Rename the key.';
  expect((await errorOf(() => model.fitDataset([good, wrong], {verbose: 0}))).message).toBe(message);
  expect((await errorOf(() => model.evaluateDataset(() => [good, wrong]))).message).toBe(message);
});
