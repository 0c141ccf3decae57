import * as tf from '@tensorflow/tfjs';
import {runOps} from '../../../../layers/kernels/tensorflow/device/runOps.ts';
import {adamWUpdate} from '../../../../layers/ops/adamWUpdate.ts';
import {adamWUpdates} from '../../../../layers/ops/adamWUpdates.ts';
import {dequantizeRows} from '../../../../layers/ops/dequantizeRows.ts';
import {globalNorm} from '../../../../layers/ops/globalNorm.ts';
import {loraMatMul} from '../../../../layers/ops/loraMatMul.ts';
import {pack16} from '../../../../layers/ops/pack16.ts';
import {storeQuantized} from '../../../../layers/ops/quantizedMatrix.ts';
import {rotaryEmbedding} from '../../../../layers/ops/rotaryEmbedding.ts';
import {type DenseMatrix, isQuantized, type StoredMatrix} from '../../../../layers/ops/storedMatrix.ts';
import {unpackMatrix} from '../../../../layers/ops/unpackMatrix.ts';
import {quantizeNF4} from '../../../../quant/blockwise/fourBit.ts';
import {expectNoLeak} from '../../../describeEachBackend.ts';
import {expectClose} from '../../../expectClose.ts';
import {expectSameFunction, normal} from '../../ops/expectSameFunction.ts';
import {choose, describeTensorFlow, tensorflowBackend} from './tensorflowOnly.ts';

type Matrix = tf.Tensor2D;

const half = (rows: number, cols: number): DenseMatrix => {
  const tensor = tf.tidy(() => pack16(normal([rows, cols], 1) as Matrix, 'bfloat16'));
  return {tensor, dtype: 'bfloat16', rows, cols};
};
const nf4 = (rows: number, cols: number): StoredMatrix => {
  const values = tf.tidy(() => normal([rows, cols], 1).dataSync() as Float32Array);
  return storeQuantized(quantizeNF4(values, [rows, cols]));
};
const wide = (weight: StoredMatrix): Matrix =>
  tf.tidy(() => (isQuantized(weight) ? dequantizeRows(weight) : unpackMatrix(weight))) as Matrix;
const product = (x: Matrix, w: Matrix, a: Matrix, b: Matrix) =>
  tf.tidy(
    () =>
      tf.add(
        tf.matMul(x, w, false, true),
        tf.matMul(tf.matMul(x, a, false, true), b, false, true).mul(0.7),
      ) as Matrix,
  );

describeTensorFlow('loraMatMul', () => {
  afterAll(() => choose('float32'));

  test.each([
    ['a small weight, which is kept', half, 5, 12, 20],
    ['a small quantized weight', nf4, 5, 12, 20],
    ['a larger weight and few rows', half, 6, 640, 512],
    ['a larger quantized weight and few rows', nf4, 6, 640, 512],
    ['a larger weight and many rows', half, 600, 640, 512],
  ] as const)('of %s equals the sum of both paths', (_, make, count, rows, cols) => {
    const weight = make(rows, cols);
    const exact = wide(weight);
    expectSameFunction(
      (x, a, b) => loraMatMul(x, weight, a, b, 0.7),
      (x, a, b) => product(x, exact, a, b),
      [normal([count, cols], 2), normal([4, cols], 3), normal([rows, 4], 4)],
      5e-5,
    );
  });

  test('notices changed low-rank matrices', () => {
    const weight = half(12, 20);
    const [x, exact] = [normal([5, 20], 2) as Matrix, wide(weight)];
    const a = tf.variable(normal([4, 20], 3)) as unknown as tf.Variable<tf.Rank.R2>;
    const b = normal([12, 4], 4) as Matrix;
    for (const seed of [5, 6]) {
      a.assign(normal([4, 20], seed) as Matrix);
      expectClose(loraMatMul(x, weight, a, b, 0.7), product(x, exact, a, b), {relative: 2e-5});
    }
    expectClose(loraMatMul(x, weight, a, b, 0), tf.matMul(x, exact, false, true), {relative: 2e-5});
  });

  test('does not lose the low-rank path to rounded operands', async () => {
    await choose('bfloat16');
    const [weight, x] = [half(12, 20), normal([5, 20], 2) as Matrix];
    const [a, b] = [normal([4, 20], 3).mul(1e-3), normal([12, 4], 4)] as Matrix[];
    const added = tf.sub(loraMatMul(x, weight, a, b, 0.7), loraMatMul(x, weight, a, b, 0));
    const expected = tf.matMul(tf.matMul(x, a, false, true), b, false, true).mul(0.7);
    await choose('float32');
    expectClose(added, expected, {relative: 1e-2});
  });

  test('keeps no more than 32 MiB of weights', () => {
    const multiply = (rows: number, count: number) => {
      const cols = 512; // 512 rows are 1 MiB
      const [x, a, b] = [normal([1, cols], 2), normal([1, cols], 3), normal([rows, 1], 4)] as Matrix[];
      const packed = half(rows, cols);
      const handles = Array.from({length: count}, () => {
        tf.tidy(() => {
          const tensor = tf.add(packed.tensor, 0); // a weight of its own
          loraMatMul(x, {...packed, tensor}, a, b, 1);
        });
        return tensorflowBackend().getNumOfTFTensors();
      });
      tf.dispose([x, a, b, packed.tensor]);
      return handles;
    };
    for (const rows of [256, 512]) multiply(rows, 1); // constants that are made on first use
    const [halves, wholes] = [multiply(256, 80), multiply(512, 40)];
    expect(new Set(halves.slice(64)).size).toBe(1);
    expect(new Set(wholes.slice(32)).size).toBe(1);
    expect(halves[79] - wholes[39]).toBe(64 - 32);
  });
});

describeTensorFlow('optimizer kernels', () => {
  // Two of one shape, one alone, and two that are too large to be stacked.
  const SHAPES = [[4, 6], [300, 500], [7], [4, 6], [300, 500]];

  test.each([0, 0.1])('adamWUpdates with decay %f equals one update after another', (weightDecay) => {
    const settings = {learningRate: 0.1, beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weightDecay, step: 3};
    const updates = SHAPES.map((shape, i) => ({
      value: normal(shape as [number], 4 * i),
      gradient: normal(shape as [number], 4 * i + 1),
      mean: normal(shape as [number], 4 * i + 2),
      variance: tf.tidy(() => normal(shape as [number], 4 * i + 3).square()),
    }));
    const together = adamWUpdates(updates, settings);
    for (const [i, {value, gradient, mean, variance}] of updates.entries()) {
      const alone = adamWUpdate(value, gradient, mean, variance, settings);
      for (const [part, tensor] of alone.entries()) expectClose(together[i][part], tensor, {relative: 0});
    }
    const before = tensorflowBackend().getNumOfTFTensors();
    expectNoLeak(() => adamWUpdates(updates, settings));
    expect(tensorflowBackend().getNumOfTFTensors()).toBe(before);
  });

  test('globalNorm is the root of the sum of all squares', () => {
    const tensors = SHAPES.map((shape, i) => normal(shape as [number], i));
    const all = tf.concat(tensors.map((tensor) => tensor.flatten()));
    expectClose(globalNorm(tensors), tf.norm(all), {relative: 1e-5});
    expectNoLeak(() => globalNorm(tensors));
  });
});

describeTensorFlow('rotaryEmbedding', () => {
  test.each([
    ['few heads', [2, 3, 5, 8]],
    ['many', [4, 4, 130, 32]],
  ])('of %s rotates each half with the other', (_, shape) => {
    const [, , length, dim] = shape;
    const angles = tf.randomUniform([1, 1, length, dim / 2], 0, 6, 'float32', 1) as tf.Tensor4D;
    const [cos, sin] = [tf.cos(angles), tf.sin(angles)];
    expectSameFunction(
      (x) => rotaryEmbedding(x, cos, sin),
      (x) =>
        tf.tidy(() => {
          const [first, second] = tf.split(x, 2, 3);
          return tf.concat([first.mul(cos).sub(second.mul(sin)), second.mul(cos).add(first.mul(sin))], 3);
        }),
      [normal(shape as [number, number, number, number], 2)],
    );
  });
});

describeTensorFlow('constants', () => {
  test('of shapes are made once, and those that a pass shares are kept until the next pass', () => {
    const x = tf.tensor1d([1, 2, 3]).add(1);
    const backend = tensorflowBackend();
    const seen: number[][] = [];
    const run = (key: string) =>
      tf.dispose(
        runOps(backend, {x}, (ops, handles) => {
          const shape = ops.integers([3, 1]);
          const twice = ops.latest('test', key, () => ops.add(handles.x, handles.x));
          seen.push([shape.id, twice.id]);
          return [ops.reshape(twice, [3, 1])];
        }).map((info) => tf.engine().makeTensorFromTensorInfo(info)),
      );
    run('a');
    const before = backend.getNumOfTFTensors();
    for (const key of ['a', 'b', 'b']) run(key);
    expect(backend.getNumOfTFTensors()).toBe(before);
    expect(seen[1]).toEqual(seen[0]);
    expect(seen[2][0]).toBe(seen[0][0]);
    expect(seen[2][1]).not.toBe(seen[0][1]);
    expect(seen[3]).toEqual(seen[2]);
  });
});
