import * as tf from '@tensorflow/tfjs';
import {useBackend} from '../../../../src/training/backends/useBackend.ts';
import {expectNoLeak} from '../../../describeEachBackend.ts';
import {expectClose} from '../../../expectClose.ts';

type Op = (x: tf.Tensor, y: tf.Tensor) => tf.Tensor;

/** Ops that train a Llama in plain TensorFlow.js; x and y are `[4, 6]`, positive. */
const OPS: Record<string, Op> = {
  add: (x, y) => tf.add(x, y),
  'add, broadcast': (x, y) => tf.add(x, y.slice([0, 0], [1, 6])),
  sub: (x, y) => tf.sub(x, y),
  mul: (x, y) => tf.mul(x, y),
  'mul by a column': (x, y) => tf.mul(x, y.slice([0, 0], [4, 1])),
  div: (x, y) => tf.div(x, y),
  pow: (x) => tf.pow(x, 3),
  maximum: (x, y) => tf.maximum(x, y),
  minimum: (x, y) => tf.minimum(x, y),
  squaredDifference: (x, y) => tf.squaredDifference(x, y),
  neg: (x) => tf.neg(x),
  abs: (x) => tf.abs(tf.sub(x, 1)),
  square: (x) => tf.square(x),
  sqrt: (x) => tf.sqrt(x),
  rsqrt: (x) => tf.rsqrt(x),
  reciprocal: (x) => tf.reciprocal(x),
  exp: (x) => tf.exp(x),
  log: (x) => tf.log(x),
  log1p: (x) => tf.log1p(x),
  sigmoid: (x) => tf.sigmoid(x),
  logSigmoid: (x) => tf.logSigmoid(x),
  softplus: (x) => tf.softplus(x),
  tanh: (x) => tf.tanh(x),
  erf: (x) => tf.erf(x),
  relu: (x) => tf.relu(tf.sub(x, 1)),
  elu: (x) => tf.elu(tf.sub(x, 1)),
  silu: (x) => tf.mul(x, tf.sigmoid(x)),
  cos: (x) => tf.cos(x),
  sin: (x) => tf.sin(x),
  clipByValue: (x) => tf.clipByValue(x, 0.6, 1.2),
  softmax: (x) => tf.softmax(x),
  logSoftmax: (x) => tf.logSoftmax(x),
  logSumExp: (x) => tf.logSumExp(x, 1),
  sum: (x) => tf.sum(x, 0),
  mean: (x) => tf.mean(x, 1, true),
  'max along an axis': (x) => tf.max(x, 1),
  'min along an axis': (x) => tf.min(x, 1),
  prod: (x) => tf.prod(x, 1),
  cumsum: (x) => tf.cumsum(x, 1),
  'gather rows': (x) => tf.gather(x, tf.tensor1d([3, 0, 3, 1, 3], 'int32')),
  'gather rows by a matrix': (x) =>
    tf.gather(
      x,
      tf.tensor2d(
        [
          [3, 0],
          [3, 1],
        ],
        [2, 2],
        'int32',
      ),
    ),
  'gather columns': (x) => tf.gather(x, tf.tensor1d([5, 0, 5], 'int32'), 1),
  concat: (x, y) => tf.concat([x, y], 1),
  stack: (x, y) => tf.stack([x, y], 1),
  slice: (x) => tf.slice(x, [1, 2], [2, 3]),
  split: (x) => tf.split(x, 2, 1)[1],
  unstack: (x) => tf.unstack(x, 0)[2],
  transpose: (x) => tf.transpose(x),
  reshape: (x) => tf.reshape(x, [2, 12]),
  expandDims: (x) => tf.expandDims(x, 1),
  reverse: (x) => tf.reverse(x, 1),
  tile: (x) => tf.tile(x, [2, 3]),
  broadcastTo: (x) => tf.broadcastTo(x, [3, 4, 6]),
  pad: (x) =>
    tf.pad(x, [
      [1, 2],
      [0, 1],
    ]),
  where: (x, y) => tf.where(tf.tensor1d([1, 0, 0, 1, 0, 1], 'bool').expandDims(0).tile([4, 1]), x, y),
  cast: (x) => tf.cast(x, 'float32'),
  'matMul, one side constant': (x, y) => tf.matMul(x, y, false, true),
  dot: (x, y) => tf.dot(x, tf.transpose(y)),
  addN: (x, y) => tf.addN([x, y, x]),
  'rms norm': (x, y) => tf.mul(tf.mul(x, tf.rsqrt(tf.add(tf.mean(tf.square(x), -1, true), 1e-5))), y),
  oneHot: (x) => tf.mul(tf.oneHot(tf.tensor1d([0, 5, 2, 2], 'int32'), 6), tf.logSoftmax(x)),
};

const x = Float32Array.from({length: 24}, (_, i) => 0.5 + ((i * 7) % 24) / 16);
const y = Float32Array.from({length: 24}, (_, i) => 0.4 + ((i * 11) % 24) / 20);

/** Returns the op's value and both gradients of a weighted sum of it. */
async function evaluate(backend: 'cpu' | 'wasm', op: Op): Promise<Float32Array[]> {
  await useBackend(backend, backend === 'wasm' ? {threads: 2} : {});
  return tf.tidy(() => {
    const inputs = [tf.tensor2d(x, [4, 6]), tf.tensor2d(y, [4, 6])];
    const value = op(inputs[0], inputs[1]);
    const weights = tf.reshape(tf.cos(tf.range(0, value.size)), value.shape);
    const scalar = (a: tf.Tensor, b: tf.Tensor) =>
      tf
        .sum(tf.mul(op(a, b), weights))
        .add(tf.sum(b).mul(0))
        .asScalar();
    return [value, ...tf.grads(scalar)(inputs)].map((tensor) => tensor.dataSync() as Float32Array);
  });
}

describe('values and gradients on wasm equal those on cpu', () => {
  test.each(Object.entries(OPS))('%s', async (_, op) => {
    const expected = await evaluate('cpu', op);
    const actual = await evaluate('wasm', op);
    for (let i = 0; i < 3; i++) expectClose(actual[i], expected[i], {relative: 1e-5});
    const inputs = [tf.tensor2d(x, [4, 6]), tf.tensor2d(y, [4, 6])];
    expectNoLeak(() => tf.tidy(() => op(inputs[0], inputs[1])));
    tf.dispose(inputs);
  });

  test.each([
    ['mod', () => tf.mod(tf.tensor1d([-7, 7, -1, 2 ** 30, -(2 ** 31)], 'int32'), tf.scalar(65536, 'int32'))],
    [
      'floorDiv',
      () =>
        tf.floorDiv(tf.tensor1d([-7, 7, -65537, 2 ** 30, -(2 ** 31)], 'int32'), tf.scalar(65536, 'int32')),
    ],
    ['mul', () => tf.mul(tf.tensor1d([-7, 7], 'int32'), tf.tensor1d([3, 1 << 20], 'int32'))],
    ['add', () => tf.add(tf.tensor1d([-7, 7], 'int32'), tf.tensor1d([3, 1 << 30], 'int32'))],
    ['sub', () => tf.sub(tf.tensor1d([-7, 7], 'int32'), tf.tensor1d([3, 1 << 30], 'int32'))],
    ['maximum', () => tf.maximum(tf.tensor1d([-7, 7], 'int32'), tf.scalar(0, 'int32'))],
    ['gather', () => tf.gather(tf.tensor1d([-7, 7, 1 << 30], 'int32'), tf.tensor1d([2, 0], 'int32'))],
    ['cumsum', () => tf.cumsum(tf.tensor1d([1, 0, 1, 1], 'int32'))],
    ['notEqual', () => tf.notEqual(tf.tensor1d([1, -100], 'int32'), -100)],
    [
      'argMax',
      () =>
        tf.argMax(
          tf.tensor2d([
            [1, 5, 2],
            [7, 5, 7],
          ]),
          1,
        ),
    ],
    [
      'topk',
      () =>
        tf.topk(
          tf.tensor2d([
            [1, 5, 2],
            [7, 5, 9],
          ]),
          2,
        ).indices,
    ],
    ['sum', () => tf.sum(tf.tensor1d([1, -100, 5], 'int32'))],
    ['toInt', () => tf.tensor1d([1.9, -1.9, 0.4]).toInt()],
    [
      'where',
      () =>
        tf.where(
          tf.tensor1d([true, false], 'bool'),
          tf.tensor1d([1, 2], 'int32'),
          tf.tensor1d([9, 8], 'int32'),
        ),
    ],
  ] as [string, () => tf.Tensor][])('%s of integers', async (_, op) => {
    await useBackend('cpu');
    const expected = tf.tidy(() => Array.from(op().dataSync()));
    await useBackend('wasm');
    expect(tf.tidy(() => Array.from(op().dataSync()))).toEqual(expected);
  });

  test('unsortedSegmentSum skips ids outside the segments', async () => {
    const sum = () =>
      tf.unsortedSegmentSum(
        tf.tensor2d([1, 2, 3, 4, 5, 6, 7, 8], [4, 2]),
        tf.tensor1d([2, -1, 2, 5], 'int32'),
        3,
      );
    await useBackend('wasm');
    expect(sum().arraySync()).toEqual([
      [0, 0],
      [0, 0],
      [6, 8],
    ]);
  });
});

describe('kernels that replace stock ones', () => {
  const agree = async (op: () => tf.Tensor, relative = 1e-6) => {
    await useBackend('cpu');
    const expected = tf.tidy(() => op().dataSync());
    const shape = tf.tidy(() => op().shape);
    await useBackend('wasm');
    const actual = tf.tidy(op);
    expect(actual.shape).toEqual(shape);
    expectClose(actual.dataSync(), expected, {relative});
    actual.dispose();
    expectNoLeak(() => tf.tidy(op));
  };

  test('exp over the whole range of floats', async () => {
    const values = Float32Array.from({length: 40001}, (_, i) => -110 + (200 * i) / 40000);
    await useBackend('wasm');
    const got = tf.tidy(() => tf.exp(tf.tensor1d(values)).dataSync());
    let worst = 0;
    values.forEach((value, i) => {
      const want = Math.fround(Math.exp(value));
      if (want < 2 ** -126 || want === Number.POSITIVE_INFINITY) {
        expect(Math.abs(got[i] - want) <= 2 ** -148 || got[i] === want).toBe(true); // denormal, zero or infinite
      } else worst = Math.max(worst, Math.abs(got[i] - want) / want);
    });
    expect(worst).toBeLessThan(3e-7);
    const special = tf.tidy(() =>
      tf.exp([Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 0, -0]),
    );
    expect(Array.from(special.dataSync())).toEqual([Number.NaN, Number.POSITIVE_INFINITY, 0, 1, 1]);
  });

  test.each([
    [[3, 37, 5], [1]],
    [[3, 37, 5], [0]],
    [[3, 37, 5], [2]],
    [
      [3, 37, 5],
      [0, 1],
    ],
    [
      [3, 37, 5],
      [1, 2],
    ],
    [
      [3, 37, 5],
      [0, 2],
    ],
    [
      [3, 37, 5],
      [0, 1, 2],
    ],
    [[4, 0], [1]],
    [[7, 67], [-1]],
  ])('sum of %j over %j', async (shape, axes) => {
    for (const keepDims of [false, true]) {
      await agree(() => tf.sum(tf.randomUniform(shape, -1, 1, 'float32', 5), axes, keepDims));
    }
  });

  test.each([
    ['rows', [5, 3], [2], 0],
    ['columns', [5, 3], [2], 1],
    ['the middle by a matrix', [4, 5, 3], [2, 2], 1],
    ['single values', [5], [2, 1], 0],
  ])('gather of %s', async (_, shape, indexShape, axis) => {
    const count = tf.util.sizeFromShape(indexShape);
    for (const dtype of ['float32', 'int32'] as const) {
      const indices = () =>
        tf.tensor(
          Array.from({length: count}, (_, i) => (2 * i + 2) % 3),
          indexShape,
          'int32',
        );
      await agree(() =>
        tf.gather(tf.range(0, tf.util.sizeFromShape(shape), 1, dtype).reshape(shape), indices(), axis),
      );
    }
  });

  test('gathers with batch axes, and booleans, as the stock kernel does', async () => {
    await agree(() =>
      tf.gather(
        tf.range(0, 12).reshape([2, 6]),
        tf.tensor2d(
          [
            [5, 0],
            [1, 1],
          ],
          [2, 2],
          'int32',
        ),
        1,
        1,
      ),
    );
    await agree(() => tf.gather(tf.tensor1d([true, false, true], 'bool'), tf.tensor1d([2, 1], 'int32')));
  });

  test('gather names an index outside the table', async () => {
    await useBackend('wasm');
    const x = tf.ones([4, 2]);
    const before = tf.memory().numTensors;
    const indices = tf.tensor1d([0, 4], 'int32');
    expect(() => tf.gather(x, indices)).toThrow('gather index 1: expected 0 … 3, got 4.');
    tf.dispose(indices);
    expect(tf.memory().numTensors).toBe(before);
  });

  test('registering again keeps the stock kernels underneath', async () => {
    const {registerWasmKernels} = await import('../../../../layers/kernels/wasm/registerWasmKernels.ts');
    registerWasmKernels();
    registerWasmKernels();
    await agree(() => tf.sum(tf.ones([2, 3, 4]), [0, 2]));
  });
});
