import * as tf from '@tensorflow/tfjs';
import {embedding} from '../../../layers/ops/embedding.ts';
import {linear} from '../../../layers/ops/linear.ts';
import {loraLinear} from '../../../layers/ops/loraLinear.ts';
import {loraMatMul} from '../../../layers/ops/loraMatMul.ts';
import {pack16} from '../../../layers/ops/pack16.ts';
import {storedMatMul} from '../../../layers/ops/storedMatMul.ts';
import {
  type DenseMatrix,
  fits16BitKernels,
  type StoredMatrix,
  storedShape,
} from '../../../layers/ops/storedMatrix.ts';
import {unpack16} from '../../../layers/ops/unpack16.ts';
import {unpackMatrix} from '../../../layers/ops/unpackMatrix.ts';
import {packRows, type StorageDtype, unpackRows} from '../../../quant/float16.ts';
import {describeEachBackend, expectNoLeak} from '../../describeEachBackend.ts';
import {expectClose} from '../../expectClose.ts';
import {describeComposedToo} from '../../withoutKernels.ts';
import {expectSameFunction, normal} from './expectSameFunction.ts';

const DTYPES: StorageDtype[] = ['float32', 'bfloat16', 'float16'];

function store(values: tf.Tensor2D, dtype: StorageDtype): DenseMatrix {
  const [rows, cols] = values.shape;
  return {tensor: dtype === 'float32' ? values : pack16(values, dtype), dtype, rows, cols};
}

/** Rounds a matrix to a type. */
function rounded(values: tf.Tensor2D, dtype: StorageDtype): tf.Tensor2D {
  if (dtype === 'float32') return values;
  const [rows, cols] = values.shape;
  return tf.tensor2d(unpackRows(pack16(values, dtype).dataSync() as Int32Array, rows, cols, dtype), [
    rows,
    cols,
  ]);
}

describeEachBackend('unpack16', () => {
  describeComposedToo(['Unpack16'], unpack16Tests);
});

function unpack16Tests(): void {
  test.each(['bfloat16', 'float16'] as const)('widens every finite value of %s exactly', (dtype) => {
    const bits = Uint16Array.from({length: 65536}, (_, i) => i);
    const packed = tf.tensor2d(packRows(bits, 256, 256), [256, 128], 'int32');
    const expected = unpackRows(packRows(bits, 256, 256), 256, 256, dtype);
    const got = unpack16(packed, dtype, 256).dataSync();
    const differing = Array.from(expected.keys()).filter((i) => !Object.is(got[i], expected[i]));
    expect(differing).toEqual([]);
  });

  test('drops the empty half of odd rows, and keeps no tensors', () => {
    const values = normal([3, 5], 1) as tf.Tensor2D;
    const packed = pack16(values, 'bfloat16');
    expect(packed.shape).toEqual([3, 3]);
    expectClose(unpack16(packed, 'bfloat16', 5), rounded(values, 'bfloat16'), {relative: 0});
    expectNoLeak(() => unpack16(packed, 'bfloat16', 5));
  });

  test('names the shape it got', () => {
    expect(() => unpack16(tf.zeros([2, 3], 'int32'), 'float16', 4)).toThrow(
      'unpack16 packed: expected [*, 2], got [2, 3]',
    );
  });
}

test('storedShape halves the columns of the 16-bit types, rounding up', () => {
  expect(storedShape('float32', 3, 5)).toEqual([3, 5]);
  expect(storedShape('bfloat16', 3, 5)).toEqual([3, 3]);
  expect(storedShape('float16', 3, 4)).toEqual([3, 2]);
});

test('fits16BitKernels takes matrices of one type of at most 16 bits, on the device, with multiples of 16', () => {
  const fits = (matrix: object) => fits16BitKernels(matrix as StoredMatrix);
  const whole = {rows: 32, cols: 48};
  for (const dtype of ['bfloat16', 'float16']) expect(fits({...whole, dtype})).toBe(true);
  for (const dtype of ['float32', 'hosted']) expect(fits({...whole, dtype})).toBe(false);
  expect(fits({rows: 40, cols: 48, dtype: 'bfloat16'})).toBe(false);
  expect(fits({rows: 32, cols: 40, dtype: 'bfloat16'})).toBe(false);
  expect([64, 8].map((blockSize) => fits({...whole, dtype: 'nf4', blockSize}))).toEqual([true, false]);
  expect([0, 2].map((outliers) => fits({...whole, dtype: 'int8', outliers}))).toEqual([true, false]);
});

describeEachBackend('unpackMatrix', () => {
  test.each(DTYPES)('returns %s as float32', (dtype) => {
    const values = normal([3, 4], 1) as tf.Tensor2D;
    const matrix = store(values, dtype);
    expectClose(unpackMatrix(matrix), rounded(values, dtype), {relative: 0});
    expectNoLeak(() => unpackMatrix(matrix));
    expect(matrix.tensor.isDisposed).toBe(false);
  });
});

describeEachBackend('storedMatMul', () => {
  describeComposedToo(['StoredMatMul', 'Unpack16'], storedMatMulTests);
});

function storedMatMulTests(): void {
  describe.each(DTYPES)('%s', (dtype) => {
    test.each([
      ['whole', undefined],
      ['in tiles of two rows', 10],
      ['row by row', 1],
    ])('multiplies %s', (_, tileElements) => {
      const values = normal([7, 5], 1) as tf.Tensor2D;
      const weight = store(values, dtype);
      const exact = rounded(values, dtype);
      const [x, y] = [normal([3, 5], 2), normal([3, 7], 3)] as tf.Tensor2D[];
      expectClose(storedMatMul(x, weight, true, tileElements), tf.matMul(x, exact, false, true));
      expectClose(storedMatMul(y, weight, false, tileElements), tf.matMul(y, exact));
      expectNoLeak(() => storedMatMul(x, weight, true, tileElements));
      expectNoLeak(() => storedMatMul(y, weight, false, tileElements));
    });
  });

  test('names the shape it got', () => {
    const weight = store(normal([7, 5], 1), 'float32');
    expect(() => storedMatMul(normal([3, 7], 2), weight, true)).toThrow(
      'storedMatMul input: expected [*, 5], got [3, 7]',
    );
    expect(() => storedMatMul(normal([3, 5], 2), weight, false)).toThrow(
      'storedMatMul input: expected [*, 7], got [3, 5]',
    );
  });
}

describeEachBackend('linear', () => {
  test.each(DTYPES)('equals tf.matMul with a %s weight, value and gradient', (dtype) => {
    const values = normal([6, 5], 1) as tf.Tensor2D;
    const [weight, exact] = [store(values, dtype), rounded(values, dtype)];
    expectSameFunction(
      (x) => linear(x, weight),
      (x) => tf.matMul(x, exact, false, true),
      [normal([4, 5], 2)],
    );
  });

  test('a packed weight gets no gradient', () => {
    const weight = normal([3, 4], 1) as tf.Tensor2D;
    const run = () => tf.grad((w) => linear(normal([2, 4], 2), store(w as tf.Tensor2D, 'float32')))(weight);
    expect(run).toThrow(/gradient/);
  });

  test('names the shape it got', () => {
    expect(() => linear(normal([2, 64], 1), store(normal([8, 32], 2), 'float32'))).toThrow(
      'linear input: expected [*, 32], got [2, 64]',
    );
  });
});

describeEachBackend('embedding', () => {
  const ids = () =>
    tf.tensor2d(
      [
        [4, 0],
        [1, 4],
      ],
      undefined,
      'int32',
    );

  test.each(DTYPES)('picks rows of a %s table', (dtype) => {
    const values = normal([5, 3], 1) as tf.Tensor2D;
    const table = store(values, dtype);
    const rows = rounded(values, dtype).arraySync();
    const input = ids();
    expectClose(
      embedding(input, table),
      tf.tensor3d([
        [rows[4], rows[0]],
        [rows[1], rows[4]],
      ]),
      {relative: 0},
    );
    expectNoLeak(() => embedding(input, table));
  });

  test('a float32 table gets the sum of its rows’ gradients', () => {
    const input = ids();
    const dy = tf.tensor3d([
      [
        [1, 2],
        [3, 4],
      ],
      [
        [5, 6],
        [7, 8],
      ],
    ]);
    const gradient = tf.grad((table) => embedding(input, store(table as tf.Tensor2D, 'float32')))(
      normal([5, 2], 1),
      dy,
    );
    expectClose(
      gradient,
      tf.tensor2d([
        [3, 4],
        [5, 6],
        [0, 0],
        [0, 0],
        [8, 10],
      ]),
    );
  });
});

describeEachBackend('loraMatMul', () => {
  test.each(DTYPES)('is the linear layer and its low-rank path, over a %s weight', (dtype) => {
    const weight = store(normal([6, 10], 1) as tf.Tensor2D, dtype);
    expectSameFunction(
      (x, a, b) => loraMatMul(x, weight, a, b, 0.7),
      (x, a, b) => loraLinear(linear(x, weight), x, a, b, 0.7),
      [normal([5, 10], 2), normal([3, 10], 3), normal([6, 3], 4)],
      2e-5,
    );
  });

  test('names the shape it got', () => {
    const weight = store(tf.zeros([6, 10]), 'float32');
    const [x, a, b] = [tf.zeros([5, 10]), tf.zeros([3, 10]), tf.zeros([6, 2])] as tf.Tensor2D[];
    expect(() => loraMatMul(x, weight, a, b, 1)).toThrow('loraMatMul b: expected [6, 3], got [6, 2]');
  });
});
