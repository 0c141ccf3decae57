import * as tf from '@tensorflow/tfjs';
import {dequantizeRows} from '../../../layers/ops/dequantizeRows.ts';
import {quantizedMatMul} from '../../../layers/ops/quantizedMatMul.ts';
import {readQuantized, storeQuantized} from '../../../layers/ops/quantizedMatrix.ts';
import {unpackMatrix} from '../../../layers/ops/unpackMatrix.ts';
import {withoutAllocation} from '../../../layers/parameter.ts';
import {QuantizedDense} from '../../../layers/quantizedDense.ts';
import type {StorageDtype} from '../../../quant/float16.ts';
import {type GroupedCodes, GroupedTensor} from '../../../quant/grouped/groupedTensor.ts';
import {describeEachBackend, expectNoLeak} from '../../describeEachBackend.ts';
import {expectClose} from '../../expectClose.ts';
import {describeComposedToo} from '../../withoutKernels.ts';
import {normal} from './expectSameFunction.ts';

interface Format {
  codeType: GroupedCodes;
  groupShape: [number, number];
  dtype: StorageDtype;
  hasZeros?: boolean;
  isShuffled?: boolean;
}

const FORMATS: Format[] = [
  {codeType: 'uint4', groupShape: [1, 32], dtype: 'float16', hasZeros: true},
  {codeType: 'uint4', groupShape: [1, 12], dtype: 'bfloat16', hasZeros: true, isShuffled: true},
  {codeType: 'uint8', groupShape: [1, 72], dtype: 'float16', hasZeros: true},
  {codeType: 'e4m3', groupShape: [8, 20], dtype: 'bfloat16'},
  {codeType: 'e4m3', groupShape: [21, 72], dtype: 'float32'},
  {codeType: 'e4m3', groupShape: [1, 72], dtype: 'float16'},
];

/** Returns values without the sign of 0, which the composed rounding drops. */
const numbers = (values: ArrayLike<number>): number[] => Array.from(values, (value) => value + 0);

const bytes = (count: number, seed: number): Uint8Array =>
  Uint8Array.from({length: count}, (_, i) => Math.imul(i + 7 * seed, 2654435761) >>> 24);

/** Makes a matrix whose scales, for float16, are also so small and so large that values become subnormal or infinite. */
function matrixOf(format: Format, rows = 21, cols = 72): GroupedTensor {
  const {codeType, groupShape, dtype, hasZeros, isShuffled} = format;
  const across = Math.ceil(cols / groupShape[1]);
  const groups = Math.ceil(rows / groupShape[0]) * across;
  const codes = bytes((rows * cols) / (codeType === 'uint4' ? 2 : 1), 1).map((code) =>
    codeType === 'e4m3' && (code & 127) === 127 ? 126 : code,
  );
  const spread = dtype === 'float16' ? [2 ** -16, 2 ** -2, 300] : [0.01, 0.3];
  return new GroupedTensor({
    quantType: codeType === 'e4m3' ? 'fp8' : 'gptq',
    shape: [rows, cols],
    codeType,
    codes,
    groupShape,
    scales: Float32Array.from({length: groups}, (_, i) => spread[i % spread.length] * (1 + (i % 11) / 16)),
    zeros: hasZeros ? bytes(groups, 3).map((zero) => (codeType === 'uint4' ? zero & 15 : zero)) : undefined,
    groupIndex: isShuffled ? Int32Array.from({length: cols}, (_, col) => (5 * col + 1) % across) : undefined,
    dtype,
  });
}

const sized = (format: Format): GroupedTensor => {
  const matrix = matrixOf(format);
  return new GroupedTensor({...matrix, scales: matrix.scales.map((scale) => Math.min(scale, 0.5))});
};

describeEachBackend('a matrix in groups', (backend) => {
  // WebGPU has a kernel for everything that composed ops need whole numbers for.
  const describeToo = backend === 'webgpu' ? (_: string[], body: () => void) => body() : describeComposedToo;

  describe.each(FORMATS)('of $codeType in $groupShape, $dtype', (format) => {
    describeToo(['DequantizeRows', 'Unpack16'], () => {
      test('dequantizes bit for bit, whole and row by row', async () => {
        const matrix = matrixOf(format);
        const storage = storeQuantized(matrix);
        expect(storage.dtype).toBe('grouped');
        expect(numbers(await unpackMatrix(storage).data())).toEqual(numbers(matrix.dequantize()));
        const some = dequantizeRows(storage, 9, 12);
        expect(numbers(await some.data())).toEqual(numbers(matrix.dequantizeRows(9, 12)));
      });
    });

    test('multiplies in both directions like the dequantized matrix, and is read back unchanged', async () => {
      const matrix = sized(format);
      const storage = storeQuantized(matrix);
      const whole = unpackMatrix(storage);
      for (const n of [1, 5]) {
        const [x, dy] = [normal([n, 72], 2), normal([n, 21], 3)] as tf.Tensor2D[];
        const pairs = [
          [quantizedMatMul(x, storage, true), tf.matMul(x, whole, false, true)],
          [quantizedMatMul(dy, storage, false), tf.matMul(dy, whole)],
        ];
        for (const [got, wanted] of pairs)
          expectClose((await got.data()) as Float32Array, (await wanted.data()) as Float32Array, {
            relative: 1e-5,
          });
      }
      expectNoLeak(() => dequantizeRows(storage, 1, 3));
      expect(await readQuantized(storage, matrix.dtype)).toEqual(matrix);
    });
  });

  test('of columns that are not in eights stays on the host', async () => {
    const matrix = matrixOf(FORMATS[3], 6, 30);
    const storage = storeQuantized(matrix);
    expect(storage.dtype).toBe('hosted');
    expect(numbers(await unpackMatrix(storage).data())).toEqual(numbers(matrix.dequantize()));
  });

  test('passes from layer to layer as Keras sets weights', async () => {
    const [from, to] = [0, 1].map(() => {
      const layer = new QuantizedDense({units: 21, useBias: false, quantization: {type: 'nf4'}});
      withoutAllocation(() => layer.build([null, 72]));
      layer.weight.writeMatrix(matrixOf(FORMATS[1]));
      return layer;
    });
    to.weight.writeMatrix(
      new GroupedTensor({...matrixOf(FORMATS[1]), scales: new Float32Array(126).fill(1)}),
    );
    to.setWeights(from.getWeights());
    expect(await to.weight.readMatrix()).toEqual(matrixOf(FORMATS[1]));
    expect(to.weight.quantType).toBe('gptq');
    for (const layer of [from, to]) layer.dispose();
  });
});

test('refuses parts that do not fit', () => {
  const parts = matrixOf(FORMATS[1]);
  expect(() => new GroupedTensor({...parts, scales: new Float32Array(1)})).toThrow(
    'scales: expected 126 values, got 1',
  );
  expect(() => new GroupedTensor({...parts, groupIndex: new Int32Array(72).fill(6)})).toThrow(
    'expected one of 6 groups, got 6',
  );
});
