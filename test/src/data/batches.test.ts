import * as tf from '@tensorflow/tfjs';
import fc from 'fast-check';
import {batchesOf, countBatches, shuffled, type TrainingData} from '../../../src/data/batches/batches.ts';
import {assertExample} from '../../../src/data/batches/collate.ts';
import {collate, type Example, IGNORE_INDEX, packSequences} from '../../../src/index.ts';

const example = (length: number, first = 1): Example => ({
  inputIds: Array.from({length}, (_, t) => first + t),
});

async function read(data: TrainingData, batchSize = 2, shuffleSeed?: string): Promise<number[][][]> {
  const batches: number[][][] = [];
  for await (const {inputIds} of batchesOf(data, {batchSize, shuffleSeed, padToMultipleOf: 1})) {
    batches.push(inputIds as number[][]);
  }
  return batches;
}

describe('collate', () => {
  test('pads on the right to a multiple of 8; padding neither counts nor is attended to', () => {
    const {inputIds, labels, attentionMask, positionIds} = collate(
      [{...example(9), labels: [IGNORE_INDEX, 2, 3, 4, 5, 6, 7, 8, 9]}, example(2)],
      {padTokenId: 50},
    ) as {inputIds: number[][]; labels: number[][]; attentionMask: number[][]; positionIds?: number[][]};
    expect(inputIds[0]).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, ...Array(7).fill(50)]);
    expect(inputIds[1]).toEqual([1, 2, ...Array(14).fill(50)]);
    expect(labels[0]).toEqual([-100, 2, 3, 4, 5, 6, 7, 8, 9, ...Array(7).fill(-100)]);
    expect(labels[1]).toEqual([1, 2, ...Array(14).fill(-100)]);
    expect(attentionMask[1]).toEqual([1, 1, ...Array(14).fill(0)]);
    expect(positionIds).toBeUndefined();
  });

  test('pads no further than the maximum length of the model', () => {
    expect((collate([example(9)], {maxLength: 12}).inputIds as number[][])[0]).toHaveLength(12);
    expect((collate([example(9)], {maxLength: 16}).inputIds as number[][])[0]).toHaveLength(16);
    expect((collate([example(3)], {padToMultipleOf: 5}).inputIds as number[][])[0]).toHaveLength(5);
  });

  test('keeps the mask and positions of packed sequences, and does not use masked tokens as targets', () => {
    const packed = {inputIds: [5, 6, 7, 8, 9], attentionMask: [1, 1, 2, 2, 0], positionIds: [0, 1, 0, 1, 0]};
    expect(collate([packed, example(2)], {padToMultipleOf: 1})).toEqual({
      inputIds: [
        [5, 6, 7, 8, 9],
        [1, 2, 0, 0, 0],
      ],
      labels: [
        [5, 6, 7, 8, -100],
        [1, 2, -100, -100, -100],
      ],
      attentionMask: [
        [1, 1, 2, 2, 0],
        [1, 1, 0, 0, 0],
      ],
      positionIds: [
        [0, 1, 0, 1, 0],
        [0, 1, 0, 0, 0],
      ],
    });
  });

  test('refuses records, which have no token ids', () => {
    const records = [{prompt: 'a', completion: 'b'}] as never[];
    for (const call of [() => collate(records), () => packSequences(records, 8)])
      expect(call).toThrow('example 0: expected token ids {inputIds}, got {"prompt":"a"');
  });

  test('refuses an empty list', () =>
    expect(() => collate([])).toThrow('expected at least one example, got none'));
});

describe('assertExample names the example and what is wrong', () => {
  test.each<[string, unknown, string, string]>([
    ['no ids', {}, 'INVALID_ARGUMENT', 'example 3 inputIds: expected token ids'],
    ['nothing', undefined, 'INVALID_ARGUMENT', 'example 3 inputIds: expected token ids'],
    ['messages', [{role: 'user', content: 'x'}], 'INVALID_ARGUMENT', 'Write a list of messages as {messages'],
    ['ids alone', [1, 2], 'INVALID_ARGUMENT', 'Write a list of token ids as {inputIds'],
    ['text', {inputIds: 'text'}, 'INVALID_ARGUMENT', 'got string'],
    ['an empty list', {inputIds: []}, 'INVALID_ARGUMENT', 'got an empty list'],
    ['one token', example(1), 'INVALID_ARGUMENT', 'got one token'],
    ['labels ignored', {...example(2), labels: [1, -100]}, 'INVALID_ARGUMENT', 'got only -100'],
    [
      'labels too short',
      {...example(2), labels: [1]},
      'SHAPE_MISMATCH',
      'example 3 labels: expected 2 values',
    ],
    ['positions too long', {...example(1), positionIds: [0, 1]}, 'SHAPE_MISMATCH', 'positionIds: expected 1'],
    ['too long', example(11), 'INVALID_ARGUMENT', 'expected at most 10 tokens'],
    ['an unknown id', example(5, 97), 'VOCABULARY_MISMATCH', 'inputIds: expected ids from 0 to 99, got 100'],
    ['a negative id', {inputIds: [3, -1]}, 'VOCABULARY_MISMATCH', 'got -1'],
    ['a fraction', {inputIds: [3, 1.5]}, 'VOCABULARY_MISMATCH', 'got 1.5'],
    ['an unknown label', {...example(2), labels: [-100, 100]}, 'VOCABULARY_MISMATCH', 'example 3 labels'],
  ])('%s', (_, given, code, message) => {
    const check = () => assertExample(given as Example, 3, {maxLength: 10, vocabSize: 100});
    expect(check).toThrow(message);
    expect(check).toThrow(expect.objectContaining({code}));
  });
});

describe('batchesOf', () => {
  const examples = [example(2, 1), example(2, 10), example(2, 20)];
  const expected = [
    [
      [1, 2],
      [10, 11],
    ],
    [[20, 21]],
  ];

  test('reads lists, iterables, generators, functions and tf.data alike', async () => {
    expect(await read(examples)).toEqual(expected);
    expect(await read(new Set(examples))).toEqual(expected);
    expect(await read(examples.values())).toEqual(expected);
    async function* generate() {
      yield* examples;
    }
    expect(await read(generate())).toEqual(expected);
    expect(await read(generate)).toEqual(expected);
    expect(await read(tf.data.array(examples as never) as never)).toEqual(expected);
    expect(countBatches(examples, 2)).toBe(2);
    expect(countBatches(generate, 2)).toBeUndefined();
  });

  test('lets batches through between examples', async () => {
    const batch = {inputIds: [[7, 8, 9]], labels: [[7, 8, 9]]};
    const mixed = [examples[0], batch, examples[1]];
    expect(await read(mixed)).toEqual([[[7, 8, 9]], expected[0]]);
    expect(countBatches(mixed, 2)).toBe(2);
  });

  test('frees the tensors of a tf.data.Dataset, but no others', async () => {
    const before = tf.memory().numTensors;
    const dataset = tf.data
      .array([0, 1])
      .map((i) => ({inputIds: tf.tensor2d([[i as number, 5]]), labels: tf.tensor2d([[i as number, 5]])}));
    expect(await read(dataset as never)).toEqual([[[0, 5]], [[1, 5]]]);
    const ofTensors = {inputIds: tf.tensor1d([3, 4], 'int32') as never};
    expect(await read([ofTensors])).toEqual([[[3, 4]]]);
    expect(tf.memory().numTensors).toBe(before + 1);
    tf.dispose(ofTensors);
  });

  test('closes the generator when reading stops early', async () => {
    let closed = false;
    function* generate() {
      try {
        yield* examples;
      } finally {
        closed = true;
      }
    }
    for await (const _ of batchesOf(generate(), {batchSize: 1})) break;
    expect(closed).toBe(true);
  });

  test('names a wrong example in a stream', async () => {
    await expect(read([examples[0], {inputIds: []}].values())).rejects.toThrow('example 1 inputIds');
  });
});

describe('shuffled', () => {
  test('is a permutation that depends only on the seed and leaves the list unchanged', () => {
    fc.assert(
      fc.property(fc.array(fc.integer(), {maxLength: 60}), fc.string(), (items, seed) => {
        const before = [...items];
        const result = shuffled(items, seed);
        expect(items).toEqual(before);
        expect(shuffled(items, seed)).toEqual(result);
        expect([...result].sort((a, b) => a - b)).toEqual([...items].sort((a, b) => a - b));
      }),
    );
  });

  test('puts every item in every place about equally often', () => {
    const [runs, size] = [4000, 5];
    const counts = Array.from({length: size}, () => new Array<number>(size).fill(0));
    for (let run = 0; run < runs; run++) {
      for (const [place, item] of shuffled([0, 1, 2, 3, 4], `${run}`).entries()) counts[item][place]++;
    }
    const expected = runs / size;
    const chiSquared = counts.flat().reduce((sum, count) => sum + (count - expected) ** 2 / expected, 0);
    expect(chiSquared).toBeLessThan(45.9); // 16 degrees of freedom, p = 1e-4
  });
});
