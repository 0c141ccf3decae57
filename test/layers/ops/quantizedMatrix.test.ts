import * as tf from '@tensorflow/tfjs';
import fc from 'fast-check';
import {dequantizeRows} from '../../../layers/ops/dequantizeRows.ts';
import {linear} from '../../../layers/ops/linear.ts';
import {linearCrossEntropy} from '../../../layers/ops/linearCrossEntropy.ts';
import {quantizedMatMul} from '../../../layers/ops/quantizedMatMul.ts';
import {type QuantizedMatrix, readQuantized, storeQuantized} from '../../../layers/ops/quantizedMatrix.ts';
import {unpackMatrix} from '../../../layers/ops/unpackMatrix.ts';
import {quantizeFP4, quantizeNF4} from '../../../quant/blockwise/fourBit.ts';
import {float32ToBfloat16, float32ToFloat16, type HalfDtype} from '../../../quant/float16.ts';
import {FourBitTensor} from '../../../quant/fourBitTensor.ts';
import {quantizeInt8} from '../../../quant/int8.ts';
import type {MatrixShape, QuantizedTensor} from '../../../quant/quantizedTensor.ts';
import {describeEachBackend, expectNoLeak} from '../../describeEachBackend.ts';
import {expectClose} from '../../expectClose.ts';
import {describeComposedToo, withoutKernels} from '../../withoutKernels.ts';
import {expectSameFunction, normal} from './expectSameFunction.ts';

type Quantize = (values: Float32Array, shape: MatrixShape) => QuantizedTensor;

/** Quantizes values of a 16-bit type, to which dequantized values are rounded. */
const from16 =
  (dtype: HalfDtype, doubleQuant: boolean): Quantize =>
  (values, shape) => {
    const bits = dtype === 'bfloat16' ? float32ToBfloat16(values) : float32ToFloat16(values);
    return quantizeNF4(bits, shape, {dtype, doubleQuant});
  };

/** Values that float16 partly holds as subnormal numbers, and partly only as infinity. */
const ofAllSizes: Quantize = (values, shape) => {
  const spread = values.map(
    (value, i) => value * 2 ** ([-20, -16, -13, 0, 15, 17][Math.floor(i / 64) % 6] ?? 0),
  );
  return new FourBitTensor({...quantizeNF4(spread, shape), dtype: 'float16'});
};

/** A quantizer whose matrices the ops do not know. */
class Halves implements QuantizedTensor {
  readonly quantType = 'halves';
  readonly dtype = 'float32';
  readonly byteLength = 0;
  constructor(
    readonly values: Float32Array,
    readonly shape: MatrixShape,
  ) {}
  dequantize(): Float32Array {
    return this.dequantizeRows(0, this.shape[0]);
  }
  dequantizeRows(begin: number, end: number): Float32Array {
    return this.values
      .slice(begin * this.shape[1], end * this.shape[1])
      .map((value) => Math.round(2 * value) / 2);
  }
}

const FORMATS: [string, Quantize][] = [
  ['nf4', (values, shape) => quantizeNF4(values, shape)],
  ['nf4 in blocks of 32', (values, shape) => quantizeNF4(values, shape, {blockSize: 32})],
  ['fp4', (values, shape) => quantizeFP4(values, shape)],
  ['nf4 doubly', (values, shape) => quantizeNF4(values, shape, {doubleQuant: true})],
  [
    'fp4 doubly in blocks of 128',
    (values, shape) => quantizeFP4(values, shape, {doubleQuant: true, blockSize: 128}),
  ],
  ['nf4 of bfloat16', from16('bfloat16', false)],
  ['nf4 of bfloat16, doubly', from16('bfloat16', true)],
  ['nf4 of float16, doubly', from16('float16', true)],
  ['int8', (values, shape) => quantizeInt8(values, shape)],
  ['int8 with outliers', (values, shape) => quantizeInt8(values, shape, {threshold: 2})],
  ['a format of its own', (values, shape) => new Halves(values, shape)],
];

/** The kernels that dequantize. */
const KERNELS = ['DequantizeRows', 'Unpack16'];

const SHAPES: MatrixShape[] = [
  [7, 5],
  [3, 64],
  [33, 31],
  [300, 70],
  [16, 515],
];

function valuesOf(shape: MatrixShape, seed = 1): Float32Array {
  return tf.tidy(() => normal([...shape], seed).dataSync() as Float32Array);
}

/** Expects the values that the matrix itself gives on the host, bit for bit. */
async function expectDequantized(matrix: QuantizedTensor): Promise<void> {
  const [rows] = matrix.shape;
  const storage = storeQuantized(matrix);
  expect(Array.from(await unpackMatrix(storage).data())).toEqual(Array.from(matrix.dequantize()));
  for (const begin of [0, 1, Math.floor(rows / 2), rows - 1]) {
    const end = Math.min(begin + 2, rows);
    const some = dequantizeRows(storage, begin, end);
    expect(Array.from(await some.data())).toEqual(Array.from(matrix.dequantizeRows(begin, end)));
  }
}

describeEachBackend('quantized storage', () => {
  describeComposedToo(KERNELS, () => {
    test('float16 has subnormal numbers and an infinity', async () => {
      const matrix = ofAllSizes(valuesOf([24, 70]), [24, 70]);
      const values = Array.from(matrix.dequantize(), Math.abs);
      expect(values.filter((value) => value > 0 && value < 2 ** -14).length).toBeGreaterThan(100);
      expect(values.filter((value) => value === Number.POSITIVE_INFINITY).length).toBeGreaterThan(10);
      await expectDequantized(matrix);
    });
  });

  describe.each(FORMATS)('%s', (_, quantize) => {
    describeComposedToo(KERNELS, () => {
      test.each(SHAPES)('dequantizes [%i, %i] bit for bit, whole and row by row', async (rows, cols) => {
        await expectDequantized(quantize(valuesOf([rows, cols]), [rows, cols]));
      });
    });

    test('the kernel equals the composed op', () => {
      const [rows, cols] = [41, 39];
      const storage = storeQuantized(quantize(valuesOf([rows, cols]), [rows, cols]));
      const x = normal([4, cols], 2) as tf.Tensor2D;
      const run = () => [
        dequantizeRows(storage),
        dequantizeRows(storage, 7, 40),
        quantizedMatMul(x, storage, true, 5 * cols),
      ];
      const fast = run();
      const composed = withoutKernels(['DequantizeRows', 'QuantizedMatMul'], run);
      expect(Array.from(composed[0].dataSync())).toEqual(Array.from(fast[0].dataSync()));
      expect(Array.from(composed[1].dataSync())).toEqual(Array.from(fast[1].dataSync()));
      expectClose(composed[2], fast[2], {relative: 1e-5});
    });

    test('is read back unchanged', async () => {
      const matrix = quantize(valuesOf([9, 33]), [9, 33]);
      expect(await readQuantized(storeQuantized(matrix), matrix.dtype)).toEqual(matrix);
    });

    test.each(SHAPES)('multiplies like the dequantized [%i, %i], in both directions', (rows, cols) => {
      const storage = storeQuantized(quantize(valuesOf([rows, cols]), [rows, cols]));
      const whole = unpackMatrix(storage);
      for (const n of [1, 4, 37]) {
        const [x, dy] = [normal([n, cols], 2), normal([n, rows], 3)] as tf.Tensor2D[];
        const forward = tf.matMul(x, whole, false, true);
        const backward = tf.matMul(dy, whole);
        for (const tileElements of [undefined, 3 * cols, 1]) {
          expectClose(quantizedMatMul(x, storage, true, tileElements), forward, {relative: 1e-5});
          expectClose(quantizedMatMul(dy, storage, false, tileElements), backward, {relative: 1e-5});
        }
      }
    });

    test('makes a linear layer with the gradient of the dequantized one, and keeps no tensors', () => {
      const storage = storeQuantized(quantize(valuesOf([12, 70]), [12, 70]));
      const whole = unpackMatrix(storage);
      const x = normal([5, 70], 2) as tf.Tensor2D;
      expectSameFunction(
        (input) => linear(input as tf.Tensor2D, storage),
        (input) => tf.matMul(input as tf.Tensor2D, whole, false, true),
        [x],
      );
      expectNoLeak(() => linear(x, storage));
      expectNoLeak(() => tf.grad((input: tf.Tensor) => linear(input as tf.Tensor2D, storage))(x));
      expectNoLeak(() => dequantizeRows(storage, 1, 3));
    });

    test('makes an output head with the loss and gradient of the dequantized one', () => {
      const storage = storeQuantized(quantize(valuesOf([20, 16]), [20, 16]));
      const whole = {tensor: unpackMatrix(storage), dtype: 'float32' as const, rows: 20, cols: 16};
      const labels = tf.tensor1d([3, -100, 19, 0], 'int32');
      expectSameFunction(
        (hidden) => linearCrossEntropy(hidden as tf.Tensor2D, storage, labels),
        (hidden) => linearCrossEntropy(hidden as tf.Tensor2D, whole, labels),
        [normal([4, 16], 2)],
      );
    });
  });

  test('multiplies any shape like its dequantized matrix', () => {
    const size = fc.integer({min: 1, max: 90});
    fc.assert(
      fc.property(size, size, size, fc.boolean(), fc.integer(), (n, rows, cols, transposeWeight, seed) => {
        tf.tidy(() => {
          const doubleQuant = seed % 2 === 0;
          const matrix = quantizeNF4(valuesOf([rows, cols], seed), [rows, cols], {doubleQuant});
          const storage: QuantizedMatrix = storeQuantized(matrix);
          const x = normal([n, transposeWeight ? cols : rows], seed + 1) as tf.Tensor2D;
          const expected = tf.matMul(x, unpackMatrix(storage), false, transposeWeight);
          expectClose(quantizedMatMul(x, storage, transposeWeight), expected, {relative: 1e-5});
        });
      }),
      {numRuns: 40},
    );
  });

  test('multiplies several panels in each direction', () => {
    const storage = storeQuantized(quantizeNF4(valuesOf([1100, 600]), [1100, 600], {doubleQuant: true}));
    const whole = unpackMatrix(storage);
    const [x, dy] = [normal([140, 600], 2), normal([140, 1100], 3)] as tf.Tensor2D[];
    expectClose(quantizedMatMul(x, storage, true), tf.matMul(x, whole, false, true), {relative: 1e-5});
    expectClose(quantizedMatMul(dy, storage, false), tf.matMul(dy, whole), {relative: 1e-5});
  });
});
