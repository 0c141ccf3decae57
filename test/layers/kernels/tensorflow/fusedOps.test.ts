import * as tf from '@tensorflow/tfjs';
import {adamWUpdates} from '../../../../layers/ops/adamWUpdates.ts';
import {attention} from '../../../../layers/ops/attention.ts';
import {causalBias} from '../../../../layers/ops/causalBias.ts';
import {decodeAttention} from '../../../../layers/ops/decodeAttention.ts';
import {globalNorm} from '../../../../layers/ops/globalNorm.ts';
import {linear} from '../../../../layers/ops/linear.ts';
import {loraLinear} from '../../../../layers/ops/loraLinear.ts';
import {loraMatMul} from '../../../../layers/ops/loraMatMul.ts';
import {pack16} from '../../../../layers/ops/pack16.ts';
import {rmsNorm} from '../../../../layers/ops/rmsNorm.ts';
import {rotaryEmbedding} from '../../../../layers/ops/rotaryEmbedding.ts';
import {swiGLU} from '../../../../layers/ops/swiGLU.ts';
import {expectNoLeak} from '../../../describeEachBackend.ts';
import {expectClose} from '../../../expectClose.ts';
import {expectSameFunction, normal} from '../../ops/expectSameFunction.ts';
import {describeTensorFlow, tensorflowBackend} from './tensorflowOnly.ts';

// Sizes at which the fused ops of native/ cross a tile, a vector or a thread; describeTensorFlow runs the rest of the
// kernels too.

describeTensorFlow('attention of several tiles', () => {
  // A tile is 48 queries by 48 keys; heads of 8, 24 and 128 are one, three and sixteen vectors.
  test.each([
    ['rows that fill no tile', [2, 6, 100, 24], [2, 2, 100, 24]],
    ['rows that fill tiles', [1, 2, 96, 8], [1, 2, 96, 8]],
    ['one row over', [1, 3, 49, 128], [1, 1, 49, 128]],
    ['keys before the queries', [2, 4, 50, 16], [2, 2, 131, 16]],
    ['a single query', [3, 4, 1, 16], [3, 2, 131, 16]],
  ])('of %s equals the whole matrix', (_, queryShape, keyShape) => {
    const none = tf.zeros([1, 1, queryShape[2], keyShape[2]]) as tf.Tensor4D;
    const bias = causalBias(queryShape[2], keyShape[2]) ?? none;
    const inputs = [
      normal(queryShape as never, 1),
      normal(keyShape as never, 2),
      normal(keyShape as never, 3),
    ];
    expectSameFunction(
      (q, k, v) => attention(q, k, v, {causal: true, scale: 0.3}),
      (q, k, v) => attention(q, k, v, {bias, scale: 0.3}),
      inputs,
      2e-5,
    );
    expectSameFunction(
      (q, k, v) => attention(q, k, v),
      (q, k, v) => attention(q, k, v, {bias: none}),
      inputs,
      2e-5,
    );
  });

  // Heads of 12 are no whole vectors, so TensorFlow's own ops compute them.
  test.each([
    ['a window', 16, {window: 20}, 100, 120],
    ['a window of one key', 8, {window: 1}, 50, 50],
    ['a soft cap', 24, {softCap: 0.8}, 60, 60],
    ['both', 16, {window: 60, softCap: 1.5, scale: 0.4}, 130, 131],
    ['both, by ops', 12, {window: 20, softCap: 1.5, scale: 0.4}, 60, 70],
  ])(
    'with %s equals the whole matrix, with and without segments',
    (_, dim, scoring, length, sourceLength) => {
      const inputs = [
        normal([2, 4, length, dim], 1),
        normal([2, 2, sourceLength, dim], 2),
        normal([2, 2, sourceLength, dim], 3),
      ];
      const rows = [0, 1].map((b) =>
        Array.from({length: sourceLength}, (_, s) => (s < 3 * b ? 0 : s < 55 ? 1 : 2)),
      );
      for (const segments of [undefined, tf.tensor2d(rows, undefined, 'int32')]) {
        const bias = causalBias(
          length,
          sourceLength,
          segments,
          'window' in scoring ? scoring.window : undefined,
        );
        const own = tf.tensor2d(rows.map((row) => row.slice(sourceLength - length)));
        const isToken = tf.cast(tf.notEqual(own, 0), 'float32').reshape([2, 1, length, 1]);
        const seen = (y: tf.Tensor4D) => (segments ? tf.mul(y, isToken) : y); // results of padding have no meaning
        expectSameFunction(
          (q, k, v) => tf.tidy(() => seen(attention(q, k, v, {causal: true, segments, ...scoring}))),
          (q, k, v) => tf.tidy(() => seen(attention(q, k, v, {...scoring, bias}))),
          inputs,
          5e-5,
        );
      }
    },
  );

  test('of packed sequences, with padding that fills a tile, equals the whole matrix', () => {
    const length = 200;
    const packed = Int32Array.from({length}, (_, t) => (t < 60 ? 1 : t < 130 ? 2 : t < 145 ? 3 : 0));
    const padded = Int32Array.from({length}, (_, t) => (t < 70 ? 0 : 1));
    const segments = tf.tensor2d([...packed, ...padded], [2, length], 'int32');
    const bias = causalBias(length, length, segments) as tf.Tensor4D;
    const isToken = tf.cast(tf.notEqual(segments, 0), 'float32').reshape([2, 1, length, 1]);
    const seen = (y: tf.Tensor4D) => tf.mul(y, isToken); // results of padding have no meaning
    expectSameFunction(
      (q, k, v) => tf.tidy(() => seen(attention(q, k, v, {causal: true, segments}))),
      (q, k, v) => tf.tidy(() => seen(attention(q, k, v, {bias}))),
      [normal([2, 4, length, 16], 1), normal([2, 2, length, 16], 2), normal([2, 2, length, 16], 3)],
      2e-5,
    );
  });

  test('passes NaN on, and returns finite numbers for huge scores', () => {
    const [q, k, v] = [1, 2, 3].map((seed) => normal([1, 1, 50, 8], seed)) as tf.Tensor4D[];
    const huge = attention(tf.mul(q, 1e4), tf.mul(k, 1e4), v, {causal: true}).dataSync();
    expect([...huge].every(Number.isFinite)).toBe(true);
    const spoiled = tf.where(tf.range(0, 50).equal(20).reshape([1, 1, 50, 1]), NaN, k) as tf.Tensor4D;
    const values = [...attention(q, spoiled, v, {causal: true}).dataSync()];
    expect(values.slice(20 * 8).every(Number.isNaN)).toBe(true); // all queries that see it
  });
});

describeTensorFlow('decodeAttention of whole vectors', () => {
  const [batch, groups, perGroup, dim, capacity] = [3, 2, 3, 16, 90];

  test.each([
    ['at the first position', 0, false],
    ['in the middle', 64, false],
    ['at the last of the room', capacity - 1, false],
    ['with padding', 64, true],
  ])('%s equals attention over the cache', (_, past, isPadded) => {
    const [query, key, value] = [perGroup * groups, groups, groups].map((heads, i) =>
      normal([batch, heads * dim], i),
    ) as tf.Tensor2D[];
    const [cos, sin] = [3, 4].map((seed) => normal([batch, 1, 1, dim / 2], seed)) as tf.Tensor4D[];
    const filled = (seed: number) =>
      tf.tidy(() => normal([batch, groups, capacity, dim], seed).add(0)) as tf.Tensor4D;
    const numbers = Int32Array.from({length: batch * capacity}, (_, i) => (i % capacity < 5 ? 0 : 1));
    const segments = isPadded ? tf.tensor2d(numbers, [batch, capacity], 'int32') : undefined;
    const before = (seed: number) => filled(seed).slice([0, 0, 0, 0], [-1, -1, past, -1]);
    const turned = (x: tf.Tensor2D, heads: number) =>
      rotaryEmbedding(x.reshape([batch, heads, 1, dim]), cos, sin);
    const keys = tf.concat([before(5), turned(key, groups)], 2);
    const values = tf.concat([before(6), value.reshape([batch, groups, 1, dim])], 2);
    const seen = segments?.slice([0, 0], [-1, past + 1]);
    const bias = causalBias(1, past + 1, seen) ?? tf.zeros([1, 1, 1, past + 1]);
    const expected = attention(turned(query, groups * perGroup), keys as tf.Tensor4D, values as tf.Tensor4D, {
      bias: bias as tf.Tensor4D,
    });
    const step = () =>
      decodeAttention({query, key, value, cos, sin, keys: filled(5), values: filled(6), segments}, past);
    const [attended, nextKeys, nextValues] = step();
    expectClose(attended, expected.reshape(attended.shape), {relative: 1e-5});
    expectClose(nextKeys.slice([0, 0, 0, 0], [-1, -1, past + 1, -1]), keys, {relative: 1e-6});
    expectClose(nextValues.slice([0, 0, 0, 0], [-1, -1, past + 1, -1]), values, {relative: 0});
    expectNoLeak(() => tf.tidy(() => step()[0]));
  });
});

describeTensorFlow('low-rank paths', () => {
  test.each([
    ['rank 1', 1, 100, 24, 40],
    ['a rank that fills no vector', 3, 50, 40, 24],
    ['a rank of several vectors', 20, 97, 64, 48],
    ['one row', 8, 1, 64, 48],
    ['a weight that is not merged', 8, 130, 1024, 520],
    ['a width that fills no vector', 4, 60, 20, 13],
  ])('of %s equal the two products', (_, rank, count, rows, cols) => {
    const tensor = tf.tidy(() => pack16(normal([rows, cols], 1) as tf.Tensor2D, 'float16'));
    const weight = {tensor, dtype: 'float16' as const, rows, cols};
    expectSameFunction(
      (x, a, b) => loraMatMul(x, weight, a, b, 0.7),
      (x, a, b) => tf.tidy(() => loraLinear(linear(x, weight), x, a, b, 0.7)),
      [normal([count, cols], 2), normal([rank, cols], 3), normal([rows, rank], 4)],
      5e-5,
    );
  });
});

describeTensorFlow('passes over many and over few numbers', () => {
  test.each([
    [3, 13],
    [700, 200],
  ])('of %i rows of %i equal the composed ones', (rows, width) => {
    const weight = tf.variable(normal([width], 1), false);
    expectSameFunction(
      (x) => rmsNorm(x, weight, 1e-5),
      (x) => tf.tidy(() => x.mul(x.square().mean(-1, true).add(1e-5).rsqrt()).mul(weight)),
      [normal([rows, width], 2)],
    );
    expectSameFunction(
      (gate, up) => swiGLU(gate, up),
      (gate, up) => tf.tidy(() => gate.mul(tf.sigmoid(gate)).mul(up)),
      [tf.mul(normal([rows, width], 3), 8), normal([rows, width], 4)],
      2e-5,
    );
  });

  test('of AdamW, however the variables are divided', () => {
    const shapes = [[7], [300, 200], [], [129, 3], [40_000]];
    const settings = {learningRate: 0.1, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0.1, step: 3};
    const updates = shapes.map((shape, i) => ({
      value: normal(shape as never, i),
      gradient: normal(shape as never, 10 + i),
      mean: normal(shape as never, 20 + i),
      variance: tf.abs(normal(shape as never, 30 + i)),
    }));
    for (const [i, next] of adamWUpdates(updates, settings).entries()) {
      const {value, gradient, mean, variance} = updates[i];
      const [m, v] = [
        mean.mul(0.9).add(gradient.mul(0.1)),
        variance.mul(0.999).add(gradient.square().mul(0.001)),
      ];
      const root = v
        .div(1 - 0.999 ** 3)
        .sqrt()
        .add(1e-8);
      const expected = value.mul(1 - 0.01).sub(m.div(root).mul(0.1 / (1 - 0.9 ** 3)));
      [expected, m, v].forEach((each, k) => {
        expectClose(next[k], each, {relative: 1e-5});
      });
    }
    const gradients = updates.map(({gradient}) => gradient);
    const squares = tf.addN(gradients.map((gradient) => gradient.square().sum()));
    expectClose(globalNorm(gradients), squares.sqrt(), {relative: 1e-5});
    expectNoLeak(() => adamWUpdates(updates, settings).flat());
    expectNoLeak(() => globalNorm(gradients));
  });

  test('leaves no handle behind', () => {
    const [q, k, v] = [1, 2, 3].map((seed) => normal([2, 2, 60, 16], seed)) as tf.Tensor4D[];
    const grads = tf.grads((x, y, z) =>
      attention(x as tf.Tensor4D, y as tf.Tensor4D, z as tf.Tensor4D, {causal: true}),
    );
    const run = () => tf.tidy(() => void grads([q, k, v]));
    run();
    const before = tensorflowBackend().getNumOfTFTensors();
    run();
    expect(tensorflowBackend().getNumOfTFTensors()).toBe(before);
  });
});
