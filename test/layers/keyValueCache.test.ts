import * as tf from '@tensorflow/tfjs';
import {KeyValueCache} from '../../layers/keyValueCache.ts';
import {describeEachBackend} from '../describeEachBackend.ts';

/** Makes `[batch, 1, positions, 2]`, every number different. */
function block(batch: number, positions: number, start: number): tf.Tensor4D {
  return tf.tidy(() => tf.range(start, start + batch * positions * 2).reshape([batch, 1, positions, 2]));
}

describeEachBackend('KeyValueCache', () => {
  let before: number;
  let cache: KeyValueCache;
  beforeEach(() => {
    before = tf.memory().numTensors;
    cache = new KeyValueCache();
  });
  afterEach(() => {
    cache.dispose();
    expect(tf.memory().numTensors).toBe(before);
  });

  test('appends positions, layer by layer, across tidies', async () => {
    expect(cache.length).toBe(0);
    tf.tidy(() => {
      cache.update(0, block(2, 3, 0), block(2, 3, 100));
      cache.update(1, block(2, 3, 200), block(2, 3, 300));
    });
    expect(cache.length).toBe(3);
    expect(cache.batchSize).toBe(2);
    expect(tf.memory().numTensors).toBe(before + 4);

    const [keys, values] = tf.tidy(() => cache.update(0, block(2, 1, 1000), block(2, 1, 2000)));
    expect(cache.length).toBe(3); // layer 1 is behind
    tf.tidy(() => cache.update(1, block(2, 1, 3000), block(2, 1, 4000)));
    expect(cache.length).toBe(4);
    expect(tf.memory().numTensors).toBe(before + 4);
    expect(keys.shape).toEqual([2, 1, 4, 2]);
    expect(await keys.array()).toEqual([
      [
        [
          [0, 1],
          [2, 3],
          [4, 5],
          [1000, 1001],
        ],
      ],
      [
        [
          [6, 7],
          [8, 9],
          [10, 11],
          [1002, 1003],
        ],
      ],
    ]);
    expect(Array.from(await values.data()).slice(0, 8)).toEqual([100, 101, 102, 103, 104, 105, 2000, 2001]);
  });

  test('leaves the tensors it was given to the caller', () => {
    const keys = block(1, 2, 0);
    const values = block(1, 2, 10);
    cache.update(0, keys, values);
    tf.dispose([keys, values]);
    const [all] = tf.tidy(() => cache.update(0, block(1, 1, 50), block(1, 1, 60)));
    expect(Array.from(all.dataSync())).toEqual([0, 1, 2, 3, 50, 51]);
  });

  test('select drops and reorders rows', async () => {
    tf.tidy(() => {
      cache.update(0, block(3, 1, 0), block(3, 1, 10));
    });
    cache.select([2, 0]);
    expect(cache.batchSize).toBe(2);
    expect(tf.memory().numTensors).toBe(before + 2);
    const [keys, values] = tf.tidy(() => cache.update(0, block(2, 1, 90), block(2, 1, 80)));
    expect(Array.from(await keys.data())).toEqual([4, 5, 90, 91, 0, 1, 92, 93]);
    expect(Array.from(await values.data())).toEqual([14, 15, 80, 81, 10, 11, 82, 83]);
  });

  test('join appends the rows of another cache, the latest positions in the same columns', async () => {
    const other = new KeyValueCache();
    tf.tidy(() => {
      cache.update(0, block(1, 1, 0), block(1, 1, 10));
      other.update(0, block(2, 2, 50), block(2, 2, 60));
    });
    cache.join(other);
    other.dispose();
    expect([cache.batchSize, cache.length]).toEqual([3, 2]);
    expect(tf.memory().numTensors).toBe(before + 2);
    const [keys, values] = tf.tidy(() => cache.update(0, block(3, 1, 90), block(3, 1, 80)));
    expect(Array.from(await keys.data())).toEqual([
      0, 0, 0, 1, 90, 91, 50, 51, 52, 53, 92, 93, 54, 55, 56, 57, 94, 95,
    ]);
    expect(Array.from(await values.data()).slice(0, 6)).toEqual([0, 0, 10, 11, 80, 81]);
    expect(() => cache.join(new KeyValueCache())).toThrow('KeyValueCache.join: expected 1 layers, got 0');
  });

  test('names the shapes that do not fit', () => {
    tf.tidy(() => {
      cache.update(0, block(2, 3, 0), block(2, 3, 0));
      expect(() => cache.update(2, block(2, 1, 0), block(2, 1, 0))).toThrow(
        /layerIndex: expected 0 to 1 .*got 2/,
      );
      expect(() => cache.update(0, block(1, 1, 0), block(1, 1, 0))).toThrow(
        'KeyValueCache layer 0 keys: expected [2, 1, *, 2], got [1, 1, 1, 2]',
      );
      expect(() => cache.update(0, block(2, 1, 0), block(2, 2, 0))).toThrow(
        'KeyValueCache layer 0 values: expected the batch and positions of the keys [2, 1, 1, 2], got [2, 1, 2, 2]',
      );
      expect(() => cache.update(0, tf.zeros([2, 1, 2]) as tf.Tensor as tf.Tensor4D, block(2, 1, 0))).toThrow(
        'got [2, 1, 2]',
      );
      expect(() => cache.select([2])).toThrow('expected rows of 0 to 1, got [2]');
      expect(() => cache.select([])).toThrow('expected rows of 0 to 1, got []');
    });
    expect(cache.length).toBe(3);
  });

  test('refuses use after dispose, and can be disposed twice', () => {
    cache.dispose();
    cache.dispose();
    const keys = block(1, 1, 0);
    expect(() => cache.update(0, keys, keys)).toThrow(expect.objectContaining({code: 'DISPOSED'}));
    expect(() => cache.select([0])).toThrow(expect.objectContaining({code: 'DISPOSED'}));
    keys.dispose();
  });
});
