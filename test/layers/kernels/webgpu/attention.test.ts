import * as tf from '@tensorflow/tfjs';
import {attention} from '../../../../layers/ops/attention.ts';
import {causalBias} from '../../../../layers/ops/causalBias.ts';
import {describeWebGPU, expectSameFunction, normal} from './webgpuOnly.ts';

interface Case {
  name: string;
  batch: number;
  heads: number;
  groups: number;
  length: number;
  sourceLength: number;
  dim: number;
  segments?: number[][];
  window?: number;
  softCap?: number;
}

const CASES: Case[] = [
  {name: 'one tile', batch: 1, heads: 1, groups: 1, length: 16, sourceLength: 16, dim: 8},
  {name: 'grouped, ragged', batch: 2, heads: 4, groups: 2, length: 37, sourceLength: 37, dim: 12},
  {name: 'several tiles', batch: 1, heads: 2, groups: 1, length: 81, sourceLength: 81, dim: 4},
  {name: 'after cached keys', batch: 1, heads: 2, groups: 2, length: 3, sourceLength: 21, dim: 8},
  {name: 'one query', batch: 2, heads: 4, groups: 1, length: 1, sourceLength: 19, dim: 16},
  {
    name: 'padded and packed',
    batch: 2,
    heads: 2,
    groups: 1,
    length: 20,
    sourceLength: 20,
    dim: 8,
    segments: [
      [...Array(6).fill(1), ...Array(9).fill(2), ...Array(5).fill(3)],
      [...Array(4).fill(0), ...Array(16).fill(1)],
    ],
  },
  {
    ...{name: 'a window', batch: 1, heads: 2, groups: 1, length: 140, sourceLength: 150, dim: 8},
    ...{window: 20},
  },
  {
    ...{name: 'a window and a soft cap', batch: 1, heads: 2, groups: 2, length: 37, sourceLength: 37, dim: 8},
    ...{
      window: 9,
      softCap: 0.8,
      segments: [[...Array(5).fill(0), ...Array(20).fill(1), ...Array(12).fill(2)]],
    },
  },
];

/** The kernels with subgroup matrices need a card, so bench/gpu checks them. */
describeWebGPU('attention', () => {
  test.each(CASES)('$name, equals softmax of the scores', async (given) => {
    const {batch, heads, groups, length, sourceLength, dim, window, softCap} = given;
    const segments = given.segments && tf.tensor2d(given.segments, undefined, 'int32');
    const bias = causalBias(length, sourceLength, segments, window);
    // Results of a padded query have no meaning.
    const real = tf.tensor4d(
      given.segments?.flat().map((id) => (id === 0 ? 0 : 1)) ?? Array(batch * length).fill(1),
      [batch, 1, length, 1],
    );
    await expectSameFunction(
      (q, k, v) => tf.tidy(() => attention(q, k, v, {causal: true, segments, window, softCap}).mul(real)),
      (q, k, v) => tf.tidy(() => attention(q, k, v, {bias, softCap}).mul(real)),
      [
        normal([batch, heads, length, dim], 1, 2),
        normal([batch, groups, sourceLength, dim], 2),
        normal([batch, groups, sourceLength, dim], 3),
      ],
    );
  });

  test('without a mask, every query sees every key', async () => {
    await expectSameFunction(
      (q, k, v) => attention(q, k, v),
      (q, k, v) => attention(q, k, v, {bias: tf.zeros([1, 1, 5, 9])}),
      [normal([1, 2, 5, 4], 1), normal([1, 2, 9, 4], 2), normal([1, 2, 9, 4], 3)],
    );
  });
});
