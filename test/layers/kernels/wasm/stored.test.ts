import * as tf from '@tensorflow/tfjs';
import fc from 'fast-check';
import {storedMatMul} from '../../../../layers/ops/storedMatMul.ts';
import {unpack16} from '../../../../layers/ops/unpack16.ts';
import {packRows, unpackRows} from '../../../../quant/float16.ts';
import {describeEachBackend, expectNoLeak} from '../../../describeEachBackend.ts';
import {expectClose} from '../../../expectClose.ts';

const dtypes = ['bfloat16', 'float16'] as const;

describeEachBackend('packed 16-bit weights', () => {
  test.each(dtypes)('all 65,536 values of %s widen exactly, NaN as NaN', (dtype) => {
    const all = Uint16Array.from({length: 65536}, (_, i) => i);
    for (const cols of [65536, 256, 31]) {
      const rows = Math.floor(65536 / cols);
      const packed = packRows(all.subarray(0, rows * cols), rows, cols);
      const expected = unpackRows(packed, rows, cols, dtype);
      const actual = tf.tidy(() =>
        unpack16(tf.tensor2d(packed, [rows, Math.ceil(cols / 2)], 'int32'), dtype, cols),
      );
      expect(actual.shape).toEqual([rows, cols]);
      const got = actual.dataSync();
      const wrong = expected.findIndex((value, i) => !Object.is(value, got[i]));
      expect(wrong === -1 ? 'none' : `${wrong}: ${got[wrong]} instead of ${expected[wrong]}`).toBe('none');
    }
  });

  const size = fc.integer({min: 1, max: 40});
  test.each(dtypes)('the product with a %s weight equals that with the widened one', (dtype) => {
    fc.assert(
      fc.property(size, size, size, fc.boolean(), fc.integer(), (n, rows, cols, transposeWeight, seed) => {
        tf.tidy(() => {
          const half = tf.randomUniform([rows * cols], 0, 1, 'float32', seed).dataSync();
          const base = dtype === 'bfloat16' ? 0x3c00 : 0x2c00; // small normal numbers of either sign
          const bits = Uint16Array.from(half, (u) => base + Math.floor(u * 0x7ff) + (u > 0.5 ? 0x8000 : 0));
          const packed = packRows(bits, rows, cols);
          const weight = {
            tensor: tf.tensor2d(packed, [rows, Math.ceil(cols / 2)], 'int32'),
            dtype,
            rows,
            cols,
          };
          const x = tf.randomUniform(
            [n, transposeWeight ? cols : rows],
            -1,
            1,
            'float32',
            seed + 1,
          ) as tf.Tensor2D;
          const widened = tf.tensor2d(unpackRows(packed, rows, cols, dtype), [rows, cols]);
          const expected = tf.matMul(x, widened, false, transposeWeight);
          expectClose(storedMatMul(x, weight, transposeWeight), expected, {relative: 1e-5});
        });
      }),
      {numRuns: 60},
    );
  });

  test('a weight of several panels in each direction', () => {
    tf.tidy(() => {
      const [rows, cols] = [1030, 651];
      const bits = Uint16Array.from({length: rows * cols}, (_, i) => 0x3d00 + ((i * 7919) % 509));
      const packed = packRows(bits, rows, cols);
      const tensor = tf.tensor2d(packed, [rows, Math.ceil(cols / 2)], 'int32');
      const weight = {tensor, dtype: 'bfloat16', rows, cols} as const;
      const widened = tf.tensor2d(unpackRows(packed, rows, cols, 'bfloat16'), [rows, cols]);
      const x = tf.randomUniform([10, cols], -1, 1, 'float32', 3) as tf.Tensor2D;
      expectClose(storedMatMul(x, weight, true), tf.matMul(x, widened, false, true), {relative: 1e-5});
      const y = tf.randomUniform([10, rows], -1, 1, 'float32', 4) as tf.Tensor2D;
      expectClose(storedMatMul(y, weight, false), tf.matMul(y, widened), {relative: 1e-5});
    });
  });

  test('keeps no tensors', () => {
    const weight = {tensor: tf.zeros([6, 4], 'int32'), dtype: 'bfloat16', rows: 6, cols: 7} as const;
    const x = tf.ones([3, 7]) as tf.Tensor2D;
    expectNoLeak(() => storedMatMul(x, weight, true));
    expectNoLeak(() => unpack16(weight.tensor as tf.Tensor2D, 'bfloat16', 7));
  });
});
