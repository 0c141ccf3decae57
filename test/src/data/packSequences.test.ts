import {join} from 'node:path';
import fc from 'fast-check';
import {collate, type Example} from '../../../src/data/batches/collate.ts';
import {packSequences, packTexts} from '../../../src/data/preprocessing/packSequences.ts';
import {Llama} from '../../../src/training/llama.ts';

const sequences = (lengths: number[]): Example[] =>
  lengths.map((length, i) => ({
    inputIds: Array.from({length}, (_, t) => (7 * i + 3 * t) % 50),
    labels: Array.from({length}, (_, t) => (t < length / 2 ? -100 : (7 * i + 3 * t) % 50)),
  }));

test('all sequences that fit are packed once, whole, and numbered', () => {
  const lengths = fc.array(fc.integer({min: 1, max: 40}), {maxLength: 60});
  fc.assert(
    fc.property(lengths, fc.integer({min: 20, max: 60}), (all, capacity) => {
      const examples = sequences(all);
      const packs = packSequences(examples, capacity);
      const members = packs.flatMap(({inputIds, labels, attentionMask, positionIds}) => {
        expect(inputIds.length).toBeLessThanOrEqual(capacity);
        const starts = positionIds!.flatMap((position, t) => (position === 0 ? [t] : []));
        return starts.map((start, i) => {
          const end = starts[i + 1] ?? inputIds.length;
          expect(new Set(attentionMask!.slice(start, end))).toEqual(new Set([i + 1]));
          expect(positionIds!.slice(start, end)).toEqual(Array.from({length: end - start}, (_, t) => t));
          expect(labels![start]).toBe(-100);
          return JSON.stringify([inputIds.slice(start, end), labels!.slice(start + 1, end)]);
        });
      });
      const fitting = examples.filter(({inputIds}) => inputIds.length <= capacity);
      const expected = fitting.map(({inputIds, labels}) => JSON.stringify([inputIds, labels!.slice(1)]));
      expect(members.sort()).toEqual(expected.sort());
      // Each pack was closed because none of the rest fitted, so no two of them are half empty.
      const halfEmpty = packs.filter(({inputIds}) => 2 * inputIds.length <= capacity);
      expect(halfEmpty.length).toBeLessThanOrEqual(1);
    }),
  );
});

test('a model learns the same from packed sequences as from each alone', async () => {
  const model = await Llama.fromPretrained(join(__dirname, '../../parity/fixtures/models/tied-gqa-llama3'));
  const examples = sequences([9, 5, 12, 3, 7]);
  const lossOf = async (rows: Example[]) => {
    const {loss, tokens} = await model.evaluateDataset(rows, {batchSize: rows.length});
    return {sum: loss * tokens, tokens};
  };
  const packs = packSequences(examples, 24);
  expect(packs.map(({inputIds}) => inputIds.length)).toEqual([24, 12]);
  expect(collate(packs).attentionMask).toHaveLength(2);
  const [together, alone] = [await lossOf(packs), await lossOf(examples)];
  expect(together.tokens).toBe(alone.tokens);
  expect(Math.abs(together.sum / alone.sum - 1)).toBeLessThan(1e-5);
  model.dispose();
});

test('texts are joined and cut; the rest is dropped', () => {
  expect(packTexts([[1, 2, 3], [4], [5, 6, 7, 8]], 3)).toEqual([
    {inputIds: [1, 2, 3]},
    {inputIds: [4, 5, 6]},
  ]);
  expect(packTexts([[1, 2, 3, 4]], 2, 9)).toEqual([{inputIds: [9, 2]}, {inputIds: [9, 4]}]);
  expect(packTexts([[1]], 2)).toEqual([]);
});
