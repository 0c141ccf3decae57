import * as fc from 'fast-check';
import {lengthGrouped} from '../../../src/index.ts';

const length = (item: number) => item;

test('keeps every item, the longest first, and depends only on the seed', () => {
  fc.assert(
    fc.property(
      fc.array(fc.nat(100)),
      fc.integer({min: 1, max: 9}),
      fc.string(),
      (items, batchSize, seed) => {
        const order = lengthGrouped(items, length, batchSize, seed);
        expect([...order].sort()).toEqual([...items].sort());
        if (items.length > 0) expect(order[0]).toBe(Math.max(...items));
        expect(lengthGrouped(items, length, batchSize, seed)).toEqual(order);
      },
    ),
  );
});

test('groups similar lengths: batches have a fraction of the padding of a plain shuffle', () => {
  const items = Array.from({length: 800}, (_, i) => 10 + ((i * 7919) % 500));
  const padding = (order: number[]) => {
    let wasted = 0;
    for (let at = 0; at < order.length; at += 8) {
      const batch = order.slice(at, at + 8);
      wasted += batch.reduce((sum, item) => sum + Math.max(...batch) - item, 0);
    }
    return wasted;
  };
  const shuffledOnly = padding(lengthGrouped(items, () => 1, 8, 'seed'));
  expect(padding(lengthGrouped(items, length, 8, 'seed'))).toBeLessThan(0.15 * shuffledOnly);
  expect(lengthGrouped(items, length, 8, 'a')).not.toEqual(lengthGrouped(items, length, 8, 'b'));
});
