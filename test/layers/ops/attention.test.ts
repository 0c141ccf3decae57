import * as tf from '@tensorflow/tfjs';
import {attention} from '../../../layers/ops/attention.ts';
import {causalBias} from '../../../layers/ops/causalBias.ts';
import {describeEachBackend, expectNoLeak} from '../../describeEachBackend.ts';
import {expectClose} from '../../expectClose.ts';
import {expectSameFunction, normal} from './expectSameFunction.ts';

/** Repeats each head in place: `[B, K, S, D]` → `[B, K·times, S, D]`. */
function repeatHeads(x: tf.Tensor4D, times: number): tf.Tensor4D {
  const [batch, heads, length, dim] = x.shape;
  return tf.stack(Array(times).fill(x), 2).reshape([batch, heads * times, length, dim]);
}

/** Computes attention with keys and values repeated for every query head. */
function repeated(query: tf.Tensor4D, key: tf.Tensor4D, value: tf.Tensor4D, bias?: tf.Tensor4D): tf.Tensor {
  const times = query.shape[1] / key.shape[1];
  const scores = tf.div(tf.matMul(query, repeatHeads(key, times), false, true), Math.sqrt(query.shape[3]));
  return tf.matMul(tf.softmax(bias ? tf.add(scores, bias) : scores), repeatHeads(value, times));
}

const visible = (bias: tf.Tensor4D) =>
  bias.arraySync().map(([rows]) => rows.map((row) => row.map((value) => (value === 0 ? 1 : 0)).join('')));

describeEachBackend('attention', () => {
  test.each([
    ['one key-value head for each query head', 4, 4],
    ['grouped queries', 4, 2],
    ['one key-value head for all', 4, 1],
  ])('%s equals repeated keys and values', (_, heads, groups) => {
    const bias = causalBias(3, 3) as tf.Tensor4D;
    expectSameFunction(
      (q, k, v) => attention(q, k, v, {bias}),
      (q, k, v) => repeated(q, k, v, bias),
      [normal([2, heads, 3, 4], 1), normal([2, groups, 3, 4], 2), normal([2, groups, 3, 4], 3)],
    );
  });

  test('sees all keys without a bias, and takes a scale', () => {
    const [q, k, v] = [
      normal([1, 2, 1, 4], 1),
      normal([1, 1, 5, 4], 2),
      normal([1, 1, 5, 4], 3),
    ] as tf.Tensor4D[];
    expectClose(attention(q, k, v), repeated(q, k, v));
    expectClose(attention(q, k, v, {scale: 1}), repeated(tf.mul(q, 2), k, v));
  });

  test('with a window, a query sees its own position and those just before it', () => {
    const bias = causalBias(3, 5, undefined, 2) as tf.Tensor4D;
    expect(visible(bias)).toEqual([['01100', '00110', '00011']]);
    expect(causalBias(1, 5, undefined, 5)).toBeUndefined();
    const [q, k, v] = [
      normal([1, 2, 3, 4], 1),
      normal([1, 1, 5, 4], 2),
      normal([1, 1, 5, 4], 3),
    ] as tf.Tensor4D[];
    expectClose(attention(q, k, v, {causal: true, window: 2}), repeated(q, k, v, bias));
  });

  test('a soft cap bounds the scores', () => {
    const [q, k] = [normal([1, 1, 4, 4], 1), normal([1, 1, 4, 4], 2)] as tf.Tensor4D[];
    const identity = tf.eye(4).reshape([1, 1, 4, 4]) as tf.Tensor4D; // shows the weights
    const scores = tf.matMul(q, k, false, true).mul(3);
    const bounded = tf.tanh(scores.div(0.7)).mul(0.7);
    expectClose(attention(q, k, identity, {scale: 3, softCap: 0.7}), tf.softmax(bounded as tf.Tensor));
  });

  test('dropout drops weights after the softmax and scales up the rest, repeatably with a seed', () => {
    const [q, k] = [normal([2, 4, 16, 16], 1), normal([2, 2, 16, 16], 2)] as tf.Tensor4D[];
    const identity = tf.tile(tf.eye(16).reshape([1, 1, 16, 16]), [2, 2, 1, 1]) as tf.Tensor4D; // shows the weights
    const weights = attention(q, k, identity, {causal: true}).dataSync();
    const dropped = (dropout: number, seed: number) =>
      attention(q, k, identity, {causal: true, dropout, seed}).dataSync();
    const some = dropped(0.25, 7);
    let [visible, kept] = [0, 0];
    for (const [i, weight] of weights.entries()) {
      if (weight === 0) continue;
      visible++;
      if (some[i] === 0) continue;
      kept++;
      expect(some[i]).toBeCloseTo(weight / 0.75, 5);
    }
    expect(kept / visible).toBeGreaterThan(0.7);
    expect(kept / visible).toBeLessThan(0.8);
    expect(dropped(0.25, 7)).toEqual(some);
    expect(dropped(0.25, 8)).not.toEqual(some);
    expect(dropped(0, 7)).toEqual(weights);
  });

  test('padded keys and other packed sequences do not reach a query', () => {
    const mask = tf.tensor2d(
      [
        [0, 0, 1, 1],
        [1, 1, 2, 2],
      ],
      undefined,
      'int32',
    );
    const bias = causalBias(4, 4, mask) as tf.Tensor4D;
    const [q, k, v] = [
      normal([2, 2, 4, 4], 1),
      normal([2, 1, 4, 4], 2),
      normal([2, 1, 4, 4], 3),
    ] as tf.Tensor4D[];
    const y = attention(q, k, v, {bias});
    const tail = (x: tf.Tensor4D) => x.slice([0, 0, 2, 0], [-1, -1, 2, -1]);
    // In both rows the last two positions are a sequence of their own.
    expectClose(tail(y as tf.Tensor4D), repeated(tail(q), tail(k), tail(v), causalBias(2, 2)));
    expectSameFunction(
      (a, b, c) => tf.tidy(() => tail(attention(a, b, c, {bias}))),
      (a, b, c) => repeated(tail(a), tail(b), tail(c), causalBias(2, 2)),
      [q, k, v],
    );
  });

  test('a query that sees nothing still gives finite numbers', () => {
    const bias = causalBias(2, 2, tf.tensor2d([[0, 1]], undefined, 'int32'));
    const y = attention(normal([1, 1, 2, 2], 1), normal([1, 1, 2, 2], 2), normal([1, 1, 2, 2], 3), {bias});
    expect(Array.from(y.dataSync()).every(Number.isFinite)).toBe(true);
  });

  test('names the shapes it got', () => {
    const q = normal([1, 4, 2, 8], 1) as tf.Tensor4D;
    const k = normal([1, 3, 2, 8], 2) as tf.Tensor4D;
    expect(() => attention(q, k, k)).toThrow(
      "attention key: expected a number of heads that divides the query's 4, got 3",
    );
    const small = normal([1, 2, 2, 4], 3) as tf.Tensor4D;
    expect(() => attention(q, small, small)).toThrow(
      'attention key: expected [1, *, *, 8], got [1, 2, 2, 4]',
    );
    const value = normal([1, 2, 3, 8], 3) as tf.Tensor4D;
    expect(() => attention(q, normal([1, 2, 2, 8], 2), value)).toThrow(
      'attention value: expected [1, 2, 2, 8], got [1, 2, 3, 8]',
    );
  });
});

describeEachBackend('causalBias', () => {
  test('hides the future', () => {
    expect(visible(causalBias(3, 3) as tf.Tensor4D)).toEqual([['100', '110', '111']]);
  });

  test('queries are the last of the positions', () => {
    expect(visible(causalBias(2, 4) as tf.Tensor4D)).toEqual([['1110', '1111']]);
    expect(causalBias(1, 4)).toBeUndefined();
  });

  test('hides padding, also from a single query', () => {
    const mask = tf.tensor2d([[0, 1, 1]], undefined, 'int32');
    expect(visible(causalBias(3, 3, mask) as tf.Tensor4D)).toEqual([['000', '010', '011']]);
    expect(visible(causalBias(1, 3, mask) as tf.Tensor4D)).toEqual([['011']]);
  });

  test('keeps packed sequences apart', () => {
    const mask = tf.tensor2d([[1, 1, 2, 3]], undefined, 'int32');
    expect(visible(causalBias(4, 4, mask) as tf.Tensor4D)).toEqual([['1000', '1100', '0010', '0001']]);
  });

  test('keeps no tensors', () => {
    const mask = tf.tensor2d([[0, 1, 1]], undefined, 'int32');
    expectNoLeak(() => causalBias(2, 3, mask));
  });

  test('names the shape it got', () => {
    const mask = tf.tensor2d([[0, 1, 1]], undefined, 'int32');
    expect(() => causalBias(2, 2, mask)).toThrow('attention mask: expected [*, 2], got [1, 3]');
  });
});
