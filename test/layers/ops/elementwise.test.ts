import * as tf from '@tensorflow/tfjs';
import {rmsNorm} from '../../../layers/ops/rmsNorm.ts';
import {rotaryEmbedding} from '../../../layers/ops/rotaryEmbedding.ts';
import {swiGLU} from '../../../layers/ops/swiGLU.ts';
import {describeEachBackend} from '../../describeEachBackend.ts';
import {expectClose} from '../../expectClose.ts';
import {expectSameFunction, normal, numericalGradient} from './expectSameFunction.ts';

describeEachBackend('rmsNorm', () => {
  test('is its formula, in plain numbers', () => {
    const y = rmsNorm(tf.tensor2d([[3, 4]]), tf.tensor1d([1, 2]), 0.5);
    const rms = Math.sqrt((9 + 16) / 2 + 0.5);
    expectClose(y, [3 / rms, (4 / rms) * 2]);
  });

  test('agrees with another composition, value and gradients', () =>
    expectSameFunction(
      (x, weight) => rmsNorm(x, weight, 1e-3),
      (x, weight) => tf.mul(tf.div(x, tf.sqrt(tf.add(tf.mean(tf.mul(x, x), -1, true), 1e-3))), weight),
      [normal([2, 3, 8], 1), normal([8], 2)],
    ));

  test('gradient is the slope', () => {
    const [x, weight] = [normal([2, 4], 3), normal([4], 4)];
    const f = (input: tf.Tensor) => rmsNorm(input, weight);
    expectClose(tf.grad(f)(x), numericalGradient(f, x), {relative: 5e-3});
  });

  test('names the shape it got', () => {
    expect(() => rmsNorm(normal([2, 64], 1), normal([32], 2))).toThrow(
      'rmsNorm weight: expected [64], got [32]',
    );
  });
});

describeEachBackend('swiGLU', () => {
  test('is its formula, in plain numbers', () => {
    const [gate, up] = [
      [-2, 0, 1.5],
      [3, 5, -7],
    ];
    const expected = gate.map((g, i) => (g / (1 + Math.exp(-g))) * up[i]);
    expectClose(swiGLU(tf.tensor1d(gate), tf.tensor1d(up)), expected);
  });

  test('agrees with the plain tape', () =>
    expectSameFunction(swiGLU, (gate, up) => tf.mul(tf.mul(gate, tf.sigmoid(gate)), up), [
      normal([2, 3, 5], 1),
      normal([2, 3, 5], 2),
    ]));

  test('names the shape it got', () => {
    expect(() => swiGLU(normal([2, 3], 1), normal([2, 4], 2))).toThrow(
      'swiGLU up: expected [2, 3], got [2, 4]',
    );
  });
});

describeEachBackend('rotaryEmbedding', () => {
  const angles = (seed: number) => {
    const angle = normal([2, 1, 3, 2], seed) as tf.Tensor4D;
    return {cos: tf.cos(angle), sin: tf.sin(angle)};
  };

  test('rotates element i with element i + D/2', () => {
    const {cos, sin} = angles(5);
    const x = normal([2, 2, 3, 4], 6) as tf.Tensor4D;
    const [values, c, s] = [x.arraySync(), cos.arraySync(), sin.arraySync()];
    const expected = values.map((heads, b) =>
      heads.map((rows) =>
        rows.map((row, t) =>
          row.map((value, i) => {
            const [cosine, sine] = [c[b][0][t][i % 2], s[b][0][t][i % 2]];
            return i < 2 ? value * cosine - row[i + 2] * sine : value * cosine + row[i - 2] * sine;
          }),
        ),
      ),
    );
    expectClose(rotaryEmbedding(x, cos, sin), tf.tensor4d(expected));
  });

  test('agrees with the plain tape, tables of one row broadcast', () => {
    const angle = normal([1, 1, 3, 2], 7) as tf.Tensor4D;
    const [cos, sin] = [tf.cos(angle), tf.sin(angle)];
    expectSameFunction(
      (x) => rotaryEmbedding(x, cos, sin),
      (x) => {
        const [a, b] = [
          tf.slice(x, [0, 0, 0, 0], [-1, -1, -1, 2]),
          tf.slice(x, [0, 0, 0, 2], [-1, -1, -1, 2]),
        ];
        const turned = tf.concat([tf.neg(b), a], 3);
        return tf.add(tf.mul(x, tf.concat([cos, cos], 3)), tf.mul(turned, tf.concat([sin, sin], 3)));
      },
      [normal([2, 2, 3, 4], 8)],
    );
  });

  test('names the shapes it got', () => {
    const {cos, sin} = angles(1);
    const x = normal([2, 2, 3, 2], 2) as tf.Tensor4D; // wider ones keep what is beyond the tables
    expect(() => rotaryEmbedding(x, cos, sin)).toThrow(
      'rotaryEmbedding cos: expected [*, 1, 3, 1], got [2, 1, 3, 2]',
    );
  });
});
