import * as tf from '@tensorflow/tfjs';
import {KeyValueCache} from '../../../layers/keyValueCache.ts';
import {attention} from '../../../layers/ops/attention.ts';
import {decodeAttention} from '../../../layers/ops/decodeAttention.ts';
import {rotaryEmbedding} from '../../../layers/ops/rotaryEmbedding.ts';
import {describeEachBackend, expectNoLeak} from '../../describeEachBackend.ts';
import {expectClose} from '../../expectClose.ts';

const normal = (shape: number[], seed: number) => tf.randomNormal(shape, 0, 1, 'float32', seed);

const values = async (tensor: tf.Tensor) => Array.from(await tensor.data());

describeEachBackend('decodeAttention', () => {
  test.each([
    {batch: 1, heads: 4, groups: 2, dim: 8, past: 3, capacity: 9, tables: 1},
    {batch: 2, heads: 3, groups: 1, dim: 12, past: 150, capacity: 160, tables: 2},
    {batch: 1, heads: 2, groups: 2, dim: 32, past: 128, capacity: 129, tables: 1},
    {batch: 2, heads: 2, groups: 2, dim: 4, past: 0, capacity: 1, tables: 1, segments: [[1], [1]]},
    {
      batch: 2,
      heads: 4,
      groups: 2,
      dim: 8,
      past: 4,
      capacity: 8,
      tables: 2,
      segments: [
        [0, 0, 1, 1, 1],
        [1, 1, 2, 2, 2],
      ],
    },
    {
      batch: 2,
      heads: 4,
      groups: 2,
      dim: 8,
      past: 3,
      capacity: 8,
      tables: 2,
      segments: [
        [0, 0, 1, 1, 1, 1], // with later positions
        [1, 1, 1, 1, 1, 1],
      ],
    },
    {
      batch: 2,
      heads: 4,
      groups: 2,
      dim: 8,
      past: 6,
      capacity: 9,
      tables: 1,
      scoring: {window: 4, softCap: 0.9},
    },
    {
      batch: 2,
      heads: 2,
      groups: 1,
      dim: 8,
      past: 140,
      capacity: 150,
      tables: 1,
      segments: [Array(141).fill(1), [...Array(130).fill(1), ...Array(11).fill(2)]],
      scoring: {window: 135, scale: 0.6},
    },
  ])('of %j equals rotating, appending and attending', async (given) => {
    const {batch, heads, groups, dim, past, capacity, tables, scoring} = given;
    const query = normal([batch, heads * dim], 1) as tf.Tensor2D;
    const [key, value] = [
      normal([batch, groups * dim], 2),
      normal([batch, groups * dim], 3),
    ] as tf.Tensor2D[];
    const [cos, sin] = [
      normal([tables, 1, 1, dim / 2], 4),
      normal([tables, 1, 1, dim / 2], 5),
    ] as tf.Tensor4D[];
    const segments = given.segments && tf.tensor2d(given.segments, undefined, 'int32');
    const caches = () =>
      [normal([batch, groups, capacity, dim], 6), normal([batch, groups, capacity, dim], 7)] as tf.Tensor4D[];
    const [keys, cached] = caches();
    const expected = tf.tidy(() => {
      const turned = (x: tf.Tensor, count: number) =>
        rotaryEmbedding(x.reshape([batch, count, 1, dim]), cos, sin);
      const all = (cache: tf.Tensor4D, added: tf.Tensor) =>
        past === 0
          ? (added as tf.Tensor4D)
          : (tf.concat([cache.slice([0, 0, 0, 0], [-1, -1, past, -1]), added], 2) as tf.Tensor4D);
      const allKeys = all(keys, turned(key, groups));
      const allValues = all(cached, value.reshape([batch, groups, 1, dim]));
      const options = {causal: true, segments: segments?.slice([0, 0], [-1, past + 1]), ...scoring};
      const attended = attention(turned(query, heads), allKeys, allValues, options);
      return [attended, allKeys, allValues];
    });
    const inputs = {query, key, value, cos, sin, segments};
    const got = decodeAttention({...inputs, keys, values: cached}, past, scoring);
    const seen = got.map((tensor, i) =>
      i === 0 ? tensor : (tensor as tf.Tensor4D).slice([0, 0, 0, 0], [-1, -1, past + 1, -1]),
    );
    for (const [i, tensor] of seen.entries())
      expectClose(await values(tensor), await values(expected[i]), {relative: 1e-5});
    expectNoLeak(() => {
      const [keys, cached] = caches();
      const results = decodeAttention({...inputs, keys, values: cached}, past, scoring);
      tf.dispose([keys, cached]);
      return results;
    });
  });

  test('names the shapes that do not fit', () => {
    const cache = tf.zeros([1, 2, 8, 4]) as tf.Tensor4D;
    const table = tf.zeros([1, 1, 1, 2]) as tf.Tensor4D;
    const inputs = {
      query: tf.zeros([1, 8]),
      key: tf.zeros([1, 4]),
      value: tf.zeros([1, 8]),
      cos: table,
      sin: table,
    };
    const given = {...inputs, keys: cache, values: cache} as unknown as Parameters<typeof decodeAttention>[0];
    expect(() => decodeAttention(given, 3)).toThrow('decodeAttention key: expected [1, 8], got [1, 4]');
  });
});

describeEachBackend('KeyValueCache.attend', () => {
  const [batch, heads, groups, dim] = [2, 4, 2, 4];

  test('continues after update, and update after it', async () => {
    const table = (seed: number) => normal([1, 1, 1, dim / 2], seed) as tf.Tensor4D;
    const [stepwise, whole] = [new KeyValueCache(), new KeyValueCache()];
    const before = tf.memory().numTensors;
    const first = [
      normal([batch, groups, 255, dim], 1),
      normal([batch, groups, 255, dim], 2),
    ] as tf.Tensor4D[];
    stepwise.update(0, first[0], first[1]);
    whole.update(0, first[0], first[1]);
    tf.dispose(first);
    for (let step = 0; step < 4; step++) {
      const [attended, expected] = tf.tidy(() => {
        const query = normal([batch, heads * dim], 10 + step) as tf.Tensor2D;
        const [key, value] = [20, 30].map((seed) =>
          normal([batch, groups * dim], seed + step),
        ) as tf.Tensor2D[];
        const [cos, sin] = [table(40 + step), table(50 + step)];
        const attended =
          step === 2 // as in a pass of several positions
            ? undefined
            : stepwise.attend(0, {query, key, value, cos, sin});
        const turned = rotaryEmbedding(key.reshape([batch, groups, 1, dim]), cos, sin);
        const added = value.reshape([batch, groups, 1, dim]) as tf.Tensor4D;
        if (step === 2) stepwise.update(0, turned, added);
        const [keys, values] = whole.update(0, turned, added);
        const turnedQuery = rotaryEmbedding(query.reshape([batch, heads, 1, dim]), cos, sin);
        return [attended ?? tf.zeros([1]), attention(turnedQuery, keys, values, {causal: true})];
      });
      if (step !== 2) expectClose(await values(attended), await values(expected), {relative: 1e-5});
      tf.dispose([attended, expected]);
      expect(stepwise.length).toBe(256 + step);
    }
    stepwise.select([1]);
    expect(stepwise.batchSize).toBe(1);
    stepwise.dispose();
    whole.dispose();
    expect(tf.memory().numTensors).toBe(before);
  });

  test('names an empty layer', () => {
    const cache = new KeyValueCache();
    expect(() => cache.attend(0, {} as never)).toThrow('KeyValueCache.attend layerIndex: expected one of 0');
  });
});
