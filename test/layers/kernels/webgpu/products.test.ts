import * as tf from '@tensorflow/tfjs';
import type {WebGPUBackend} from '../../../../layers/kernels/webgpu/device/webgpuBackend.ts';
import {SharedWeights} from '../../../../layers/kernels/webgpu/weights/sharedWeights.ts';
import {usingWeight} from '../../../../layers/kernels/webgpu/weights/usingWeight.ts';
import {dequantizeRows} from '../../../../layers/ops/dequantizeRows.ts';
import {linear} from '../../../../layers/ops/linear.ts';
import {loraMatMul} from '../../../../layers/ops/loraMatMul.ts';
import {quantizedMatMul} from '../../../../layers/ops/quantizedMatMul.ts';
import {storeQuantized} from '../../../../layers/ops/quantizedMatrix.ts';
import {storedMatMul} from '../../../../layers/ops/storedMatMul.ts';
import {
  attributesOf,
  isQuantized,
  type StoredMatrix,
  tensorsOf,
} from '../../../../layers/ops/storedMatrix.ts';
import {unpackMatrix} from '../../../../layers/ops/unpackMatrix.ts';
import {quantizeFP4, quantizeNF4} from '../../../../quant/blockwise/fourBit.ts';
import {packFloat32Rows} from '../../../../quant/float16.ts';
import {FourBitTensor} from '../../../../quant/fourBitTensor.ts';
import {quantizeInt8} from '../../../../quant/int8.ts';
import type {MatrixShape, QuantizedTensor} from '../../../../quant/quantizedTensor.ts';
import {expectNoLeak} from '../../../describeEachBackend.ts';
import {choose, describeWebGPU, expectSame, expectSameFunction, normal} from './webgpuOnly.ts';

/** `[rows of x, rows, cols]`: whole tiles, parts of them, few rows, odd widths. */
const SIZES: [number, number, number][] = [
  [70, 65, 40],
  [3, 33, 40],
  [300, 24, 16],
  [6, 7, 13],
];
const TOLERANCE = {float32: 1e-5, float16: 2e-3} as const;

const FORMATS: [string, (values: Float32Array, shape: MatrixShape) => QuantizedTensor][] = [
  ['nf4', (values, shape) => quantizeNF4(values, shape)],
  ['nf4, double-quantized', (values, shape) => quantizeNF4(values, shape, {doubleQuant: true})],
  ['fp4', (values, shape) => quantizeFP4(values, shape)],
  ['int8', (values, shape) => quantizeInt8(values, shape)],
  ['int8 with outliers', (values, shape) => quantizeInt8(values, shape, {threshold: 2.5})],
];

/** Dequantizes into the 16-bit type from which they were quantized. */
const OF_16_BITS: typeof FORMATS = (['bfloat16', 'float16'] as const).flatMap((dtype) => [
  [`nf4 of ${dtype}`, (values, shape) => new FourBitTensor({...quantizeNF4(values, shape), dtype})],
  [
    `nf4 of ${dtype}, double-quantized`,
    (values, shape) => new FourBitTensor({...quantizeNF4(values, shape, {doubleQuant: true}), dtype}),
  ],
  [
    `fp4 of ${dtype}, of all sizes`, // some are subnormal in float16, some beyond its largest
    (values, shape) => {
      const spread = values.map((value, i) => value * 2 ** ([-19, -14, 0, 15][Math.floor(i / 64) % 4] ?? 0));
      return new FourBitTensor({...quantizeFP4(spread, shape), dtype});
    },
  ],
]);

/** The same numbers on host and card. */
function randomValues(size: number): Float32Array {
  let state = 12345;
  return Float32Array.from({length: size}, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state / 2 ** 31 - 1) * 3;
  });
}

describeWebGPU('products with stored weights', () => {
  afterAll(() => choose('float32'));

  describe.each(['float32', 'float16'] as const)('in %s', (computeDtype) => {
    beforeAll(() => choose(computeDtype));

    test.each(['float16', 'bfloat16'] as const)('a %s weight, both ways, any size', async (dtype) => {
      for (const [m, rows, cols] of SIZES) {
        const words = packFloat32Rows(randomValues(rows * cols), rows, cols, dtype);
        const tensor = tf.tensor2d(words, [rows, Math.ceil(cols / 2)], 'int32');
        const weight = {tensor, dtype, rows, cols};
        for (const transposeWeight of [true, false]) {
          const x = normal([m, transposeWeight ? cols : rows], 1) as tf.Tensor2D;
          const expected = tf.tidy(() => tf.matMul(x, unpackMatrix(weight), false, transposeWeight));
          await expectSame(storedMatMul(x, weight, transposeWeight), expected, TOLERANCE[computeDtype]);
          expectNoLeak(() => storedMatMul(x, weight, transposeWeight));
        }
      }
    });

    test.each([1e-9, 1e5])('values around %d keep their precision', async (magnitude) => {
      const words = packFloat32Rows(randomValues(64 * 48), 64, 48, 'float16');
      const weight = {
        tensor: tf.tensor2d(words, [64, 24], 'int32'),
        dtype: 'float16',
        rows: 64,
        cols: 48,
      } as const;
      await expectSameFunction(
        (x) => linear(x, weight),
        (x) => tf.matMul(x, unpackMatrix(weight), false, true),
        [normal([40, 48], 2, magnitude)],
        TOLERANCE[computeDtype],
        magnitude,
      );
    });

    test('a weight too large for a buffer in float16 is dequantized inside the product', async () => {
      const {device} = tf.backend() as unknown as WebGPUBackend;
      const weight = storeQuantized(quantizeNF4(randomValues(24 * 16), [24, 16]));
      const x = normal([300, 16], 3) as tf.Tensor2D;
      const expected = tf.tidy(() => tf.matMul(x, dequantizeRows(weight), false, true));
      const {limits} = device;
      const value = {maxStorageBufferBindingSize: 2 * 24 * 16 - 1};
      Object.defineProperty(device, 'limits', {value, configurable: true});
      const use = {rowCount: 300, transposeWeight: true};
      const tensors = tensorsOf(weight);
      try {
        usingWeight(
          tf.backend() as unknown as WebGPUBackend,
          tensors,
          attributesOf(weight),
          use,
          (multiplier) => {
            expect(Object.values(multiplier.weight.tensors)).toEqual(Object.values(tensors));
          },
        );
      } finally {
        Object.defineProperty(device, 'limits', {value: limits, configurable: true});
      }
      await expectSame(quantizedMatMul(x, weight, true), expected, TOLERANCE[computeDtype]);
    });

    test('weights for products of several parts of the rows are written once in each direction', async () => {
      const backend = tf.backend() as unknown as WebGPUBackend;
      const weight = storeQuantized(quantizeNF4(randomValues(24 * 16), [24, 16]));
      const tensors = tensorsOf(weight);
      const numTensors = backend.numDataIds();
      const weights = new SharedWeights(backend);
      const multiplier = (transposeWeight: boolean) =>
        weights.of(tensors, attributesOf(weight), {rowCount: 300, transposeWeight});
      const both = [multiplier(true), multiplier(false)];
      expect([multiplier(true), multiplier(false)]).toEqual(both);
      expect(backend.numDataIds()).toBe(numTensors + (computeDtype === 'float16' ? 2 : 0));
      weights.dispose();
      expect(backend.numDataIds()).toBe(numTensors);
      tf.dispose(Object.values(tensors) as tf.Tensor[]);
    });

    // Odd widths are read element by element, which software drivers take seconds to compile: once is enough.
    test.each(FORMATS)('%s, both ways, any size', async (name, quantize) => {
      const isOddTested = computeDtype === 'float32' && name !== 'int8 with outliers';
      for (const [m, rows, cols] of isOddTested ? SIZES : SIZES.slice(0, -1)) {
        const weight = storeQuantized(quantize(randomValues(rows * cols), [rows, cols]));
        for (const transposeWeight of [true, false]) {
          const x = normal([m, transposeWeight ? cols : rows], 3) as tf.Tensor2D;
          const expected = tf.tidy(() => tf.matMul(x, dequantizeRows(weight), false, transposeWeight));
          await expectSame(quantizedMatMul(x, weight, transposeWeight), expected, TOLERANCE[computeDtype]);
          expectNoLeak(() => quantizedMatMul(x, weight, transposeWeight));
        }
      }
    });

    test.each([
      ['float16', 300, 24, 32, 8],
      ['float16', 4101, 8, 20, 12],
      ['bfloat16', 5, 7, 13, 2],
      ['nf4, double-quantized', 70, 40, 64, 20],
    ] as const)('a %s weight with a low-rank path, %d rows', async (name, m, rows, cols, rank) => {
      const values = randomValues(rows * cols);
      const [, quantize] = FORMATS.find(([format]) => format === name) ?? [];
      const dtype = name === 'bfloat16' ? 'bfloat16' : 'float16';
      const packed = () =>
        tf.tensor2d(packFloat32Rows(values, rows, cols, dtype), [rows, Math.ceil(cols / 2)], 'int32');
      const weight: StoredMatrix = quantize
        ? storeQuantized(quantize(values, [rows, cols]))
        : {tensor: packed(), dtype, rows, cols};
      const wide = tf.tidy(() => (isQuantized(weight) ? dequantizeRows(weight) : unpackMatrix(weight)));
      await expectSameFunction(
        (x, a, b) => loraMatMul(x, weight, a, b, 0.7),
        (x, a, b) =>
          tf.add(
            tf.matMul(x, wide, false, true),
            tf.matMul(tf.matMul(x, a, false, true), b, false, true).mul(0.7),
          ),
        [normal([m, cols], 4), normal([rank, cols], 5), normal([rows, rank], 6)],
        TOLERANCE[computeDtype],
      );
    });
  });

  test('weights that differ only in the type they are rounded to have different shaders', async () => {
    const [rows, cols] = [33, 40];
    const x = normal([3, cols], 7) as tf.Tensor2D;
    for (const dtype of ['float32', 'bfloat16', 'float16'] as const) {
      const matrix = new FourBitTensor({...quantizeNF4(randomValues(rows * cols), [rows, cols]), dtype});
      const weight = tf.tensor2d(matrix.dequantize(), [rows, cols]);
      const expected = tf.tidy(() => tf.matMul(x, weight, false, true));
      await expectSame(quantizedMatMul(x, storeQuantized(matrix), true), expected, 1e-5);
    }
  });

  // int8 multiplies twice, in whichever order the driver's compiler chooses.
  test.each([...FORMATS, ...OF_16_BITS])(
    '%s is dequantized bit for bit, int8 to a rounding',
    async (name, quantize) => {
      const expectSame = async (rows: tf.Tensor, expected: Float32Array) => {
        const got = (await rows.data()) as Float32Array;
        if (!name.startsWith('int8')) return expect(got).toEqual(expected);
        const worst = expected.reduce(
          (most, value, i) => Math.max(most, Math.abs(got[i] - value) - 2e-7 * Math.abs(value)),
          0,
        );
        expect(worst).toBeLessThanOrEqual(0);
        expect(got.length).toBe(expected.length);
      };
      for (const [, rows, cols] of SIZES) {
        const matrix = quantize(randomValues(rows * cols), [rows, cols]);
        const weight = storeQuantized(matrix);
        await expectSame(dequantizeRows(weight), matrix.dequantize());
        const [begin, end] = [Math.floor(rows / 3), rows];
        await expectSame(dequantizeRows(weight, begin, end), matrix.dequantizeRows(begin, end));
      }
    },
  );
});
