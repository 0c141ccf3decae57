import fc from 'fast-check';
import {dynamicMap} from '../../../quant/blockwise/codebooks.ts';
import {dequantizeBlockwise, quantizeBlockwise} from '../../../quant/blockwise/dynamic8Bit.ts';
import {torchMean} from '../../../quant/blockwise/torchMean.ts';
import {
  type BlockwiseGolden,
  gaussian,
  golden,
  goldenSource,
  sha256,
} from '../fixtures/bitsandbytesGolden.ts';

test('has the maps of bitsandbytes', () => {
  expect(sha256(dynamicMap(true))).toBe(golden.map_signed);
  expect(sha256(dynamicMap(true))).toMatch(/^e732639a65f497b4/);
  expect(sha256(dynamicMap(false))).toBe(golden.map_unsigned);
});

describe('bit-exact with bitsandbytes', () => {
  const name = ({signed, source, count, block, dtype}: BlockwiseGolden) =>
    `${signed ? 'signed' : 'unsigned'} ${source} ${dtype} ${count} values, block ${block}`;
  test.each(golden.blockwise.map((each) => [name(each), each] as const))('%s', (_, each) => {
    const options = {map: dynamicMap(each.signed), blockSize: each.block, dtype: each.dtype};
    const result = quantizeBlockwise(goldenSource(each, each.count), options);
    expect(sha256(result.absmax)).toBe(each.absmax);
    expect(sha256(result.codes)).toBe(each.codes);
    expect(sha256(dequantizeBlockwise(result, options))).toBe(each.dequantized);
    const nearest = quantizeBlockwise(goldenSource(each, each.count), {...options, search: 'nearest'});
    expect(sha256(nearest.absmax)).toBe(each.absmax_nearest);
    expect(sha256(nearest.codes)).toBe(each.codes_nearest);
  });
});

test.each(golden.mean)('computes the mean of $count values as torch does', ({count, means}) => {
  const values = gaussian(count, count).map(Math.abs);
  for (const [threads, mean] of Object.entries(means)) expect(torchMean(values, Number(threads))).toBe(mean);
});

test('errs by at most half the widest gap, and half a table step, times the scale', () => {
  fc.assert(
    fc.property(
      fc.array(fc.float({min: -1000, max: 1000, noNaN: true}), {minLength: 1, maxLength: 600}),
      (numbers) => {
        const values = Float32Array.from(numbers, (x) => (Math.abs(x) < 1e-30 ? 0 : x));
        const result = quantizeBlockwise(values);
        const back = dequantizeBlockwise(result);
        values.forEach((value, i) => {
          const scale = result.absmax[Math.floor(i / 256)];
          // −1 has no code, because the map ends at −.993. A block of zeros dequantizes to −0.
          expect(Math.abs(back[i] - value)).toBeLessThanOrEqual(scale * 0.0072);
        });
      },
    ),
  );
});

test("fills an optimizer's arrays", () => {
  const codes = new Uint8Array(300);
  const absmax = new Float32Array(2);
  const result = quantizeBlockwise(gaussian(300, 3), {codes, absmax});
  expect(result.codes).toBe(codes);
  expect(result.absmax).toBe(absmax);
  expect(() => quantizeBlockwise(gaussian(300, 3), {absmax: new Float32Array(3)})).toThrow(
    'expected 2 values, got 3',
  );
  expect(() => quantizeBlockwise(Float32Array.of(1, Number.NaN), {name: 'm'})).toThrow('m [element 1]');
});
