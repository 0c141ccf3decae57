import {float32ToBfloat16, float32ToFloat16} from '../../quant/float16.ts';
import {quantizeInt8} from '../../quant/int8.ts';
import {gaussian, golden, goldenSource, type Int8Golden, sha256} from './fixtures/bitsandbytesGolden.ts';

describe('bit-exact with bitsandbytes', () => {
  const name = ({source, shape, threshold, dtype}: Int8Golden) =>
    `${source} ${dtype} [${shape}] threshold ${threshold}`;
  test.each(golden.int8.map((each) => [name(each), each] as const))('%s', (_, each) => {
    const {shape, threshold, dtype} = each;
    const tensor = quantizeInt8(goldenSource(each, shape[0] * shape[1]), shape, {threshold, dtype});
    expect(sha256(tensor.rowAbsmax)).toBe(each.absmax);
    expect(sha256(tensor.codes)).toBe(each.codes);
    expect([...(tensor.outliers?.columns ?? [])]).toEqual(each.columns);
    if (each.columns.length === 0) expect(sha256(tensor.dequantize())).toBe(each.dequantized);
  });
});

test('keeps outlier columns exactly, the rest within half a step of the smaller scale', () => {
  const values = gaussian(64 * 96, 8).map((value) => value / 64);
  for (let row = 0; row < 64; row++) values[row * 96 + 17] = 6 + row / 8;
  const plain = quantizeInt8(values, [64, 96]);
  const kept = quantizeInt8(values, [64, 96], {threshold: 6});
  expect([...kept.outliers!.columns]).toEqual([17]);
  const back = kept.dequantize();
  values.forEach((value, i) => {
    if (i % 96 === 17) expect(back[i]).toBe(value);
    else expect(Math.abs(back[i] - value)).toBeLessThanOrEqual(kept.rowAbsmax[Math.floor(i / 96)] / 253.9);
  });
  expect(kept.rowAbsmax.every((scale, row) => scale < plain.rowAbsmax[row])).toBe(true);
  expect(kept.dequantizeRows(3, 9)).toEqual(back.subarray(3 * 96, 9 * 96));
  expect(kept.byteLength).toBe(64 * 96 + 64 * 4 + 4 + 64 * 2);
});

test('keeps outliers in the 16-bit dtype of the weight', () => {
  const values = Float32Array.of(1, 100000, 2, 3);
  const kept = quantizeInt8(float32ToBfloat16(values), [2, 2], {dtype: 'bfloat16', threshold: 6});
  expect(kept.outliers!.dtype).toBe('bfloat16');
  expect(kept.outliers!.values).toEqual(float32ToBfloat16(Float32Array.of(100000, 3)));
  expect(() => quantizeInt8(values, [2, 2], {threshold: 6, name: 'w'})).toThrow(
    'w [column 1]: expected an outlier',
  );
});

test('refuses values that are not numbers, and sizes that do not fit', () => {
  const bits = float32ToFloat16(Float32Array.of(1, 2, Number.POSITIVE_INFINITY, 4));
  expect(() => quantizeInt8(bits, [2, 2], {dtype: 'float16', name: 'w'})).toThrow('w [element 2]');
  expect(() => quantizeInt8(new Float32Array(5), [2, 3])).toThrow('expected 6 values for [2, 3], got 5');
  expect(() => quantizeInt8(new Float32Array(6), [2, 3], {threshold: -1})).toThrow('got -1');
});
