import fc from 'fast-check';
import {FP4_CODE, NF4_CODE} from '../../../quant/blockwise/codebooks.ts';
import type {NestedAbsmax} from '../../../quant/blockwise/doubleQuantization.ts';
import {
  dequantizeFP4,
  dequantizeNF4,
  FOUR_BIT_BLOCK_SIZES,
  quantizeFP4,
  quantizeNF4,
} from '../../../quant/blockwise/fourBit.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {
  bfloat16ToFloat32,
  float16ToFloat32,
  float32ToBfloat16,
  float32ToFloat16,
  type StorageDtype,
} from '../../../quant/float16.ts';
import {FourBitTensor} from '../../../quant/fourBitTensor.ts';
import {type FourBitGolden, gaussian, golden, goldenSource, sha256} from '../fixtures/bitsandbytesGolden.ts';

const quantize = {nf4: quantizeNF4, fp4: quantizeFP4};
const name = ({kind, source, shape, block, dtype, nested}: FourBitGolden) =>
  `${kind} ${source} ${dtype} [${shape}] block ${block}${nested ? ' nested' : ''}`;

describe('bit-exact with bitsandbytes', () => {
  test.each(golden.four_bit.map((each) => [name(each), each] as const))('%s', (_, each) => {
    const {kind, shape, block: blockSize, dtype, nested: doubleQuant} = each;
    const values = goldenSource(each, shape[0] * shape[1]);
    expect(sha256(values)).toBe(each.input);
    const tensor = quantize[kind](values, shape, {blockSize, doubleQuant, dtype, absmaxSearch: 'table'});
    expect(sha256(tensor.packed)).toBe(each.packed);
    if (doubleQuant) {
      const {quantized, nestedAbsmax, offset} = tensor.absmax as NestedAbsmax;
      expect(offset).toBe(each.offset);
      expect(sha256(nestedAbsmax)).toBe(each.nested_absmax);
      expect(sha256(quantized)).toBe(each.absmax);
      const nearest = quantize[kind](values, shape, {blockSize, doubleQuant, dtype}).absmax as NestedAbsmax;
      expect(sha256(nearest.quantized)).toBe(each.absmax_nearest);
      expect(sha256(nearest.nestedAbsmax)).toBe(each.nested_absmax_nearest);
    } else {
      expect(sha256(tensor.absmax as Float32Array)).toBe(each.absmax);
    }
    expect(tensor.dtype).toBe(dtype);
    const dequantizedTo = (dtype: StorageDtype) => new FourBitTensor({...tensor, dtype}).dequantize();
    expect(sha256(dequantizedTo('float32'))).toBe(each.dequantized_float32);
    const halves = dequantizedTo('float16');
    expect(sha256(float32ToFloat16(halves))).toBe(each.dequantized_float16);
    expect(sha256(float16ToFloat32(float32ToFloat16(halves)))).toBe(sha256(halves)); // nothing is left to round
    // bitsandbytes converts to bfloat16 with an instruction that treats denormals as zero: compare without them.
    if (each.source === 'any_bits') return;
    const brains = dequantizedTo('bfloat16');
    expect(sha256(float32ToBfloat16(brains))).toBe(each.dequantized_bfloat16);
    expect(sha256(bfloat16ToFloat32(float32ToBfloat16(brains)))).toBe(sha256(brains));
  });

  test('gives the published check vector', () => {
    const values = Float32Array.from({length: 64 * 512}, (_, i) => Math.sin(0.37 * i) * 0.05 * (1 + (i % 7)));
    const tensor = quantizeNF4(values, [64, 512], {doubleQuant: true});
    const absmax = tensor.absmax as NestedAbsmax;
    expect([...tensor.packed.subarray(0, 8)]).toEqual([120, 173, 238, 232, 134, 66, 16, 101]);
    expect([...absmax.quantized.subarray(0, 8)]).toEqual([196, 15, 202, 42, 202, 63, 196, 191]);
    expect(absmax.offset).toBe(0.3474048972129822);
    expect([...absmax.nestedAbsmax]).toEqual([0.009384840726852417, 0.01061934232711792]);
    expect(sha256(tensor.packed)).toMatch(/^b3a682b0b46a96b0/);
    expect(sha256(absmax.quantized)).toMatch(/^160204b20f0be3f9/);
    expect(tensor.byteLength).toBe(64 * 256 + 512 + 2 * 4 + 4);
  });
});

test('packs the first element into the high half', () => {
  expect([...quantizeNF4(Float32Array.of(1, -1, 0, 0.5), [1, 4]).packed]).toEqual([0xf0, 0x7c]);
  expect([...quantizeNF4(new Float32Array(64), [1, 64]).packed]).toEqual(Array(32).fill(0x77));
  expect(quantizeNF4(new Float32Array(64), [1, 64]).absmax).toEqual(new Float32Array(1));
});

test('floors the scale of a shorter last block, as bitsandbytes does', () => {
  expect(quantizeNF4(new Float32Array(3), [1, 3]).absmax).toEqual(Float32Array.of(1e-38));
});

const matrices = fc
  .tuple(
    fc.integer({min: 1, max: 9}),
    fc.integer({min: 1, max: 150}),
    fc.constantFrom(...FOUR_BIT_BLOCK_SIZES),
  )
  .chain(([rows, cols, blockSize]) =>
    fc.record({
      shape: fc.constant([rows, cols] as [number, number]),
      blockSize: fc.constant(blockSize),
      values: fc
        .array(fc.float({noNaN: true, noDefaultInfinity: true}), {
          minLength: rows * cols,
          maxLength: rows * cols,
        })
        .map((numbers) => Float32Array.from(numbers)),
    }),
  );

describe.each(['nf4', 'fp4'] as const)('%s for any matrix', (kind) => {
  const code = kind === 'nf4' ? NF4_CODE : FP4_CODE;
  const sorted = [...code].sort((a, b) => a - b);
  const widestGap = Math.max(...sorted.slice(1).map((value, i) => value - sorted[i]));

  test('errs by at most half the widest gap times the scale of the block', () => {
    fc.assert(
      fc.property(matrices, ({shape, blockSize, values}) => {
        const tensor = quantize[kind](values, shape, {blockSize});
        const back = tensor.dequantize();
        const scales = tensor.blockScales();
        values.forEach((value, i) => {
          const scale = scales[Math.floor(i / blockSize)];
          const bound = (widestGap / 2) * scale * (1 + 2 ** -20) + 2 ** -149;
          // Scales above 2^126 have subnormal reciprocals: bitsandbytes loses bits there, so we must too.
          if (scale < 2 ** 120 && scale > 1e-36) expect(Math.abs(back[i] - value)).toBeLessThanOrEqual(bound);
        });
      }),
      {numRuns: 60},
    );
  });

  test('dequantizes a range of rows as in the whole, aligned or not, nested or not', () => {
    fc.assert(
      fc.property(matrices, fc.nat(), fc.nat(), fc.boolean(), ({shape, blockSize}, a, b, doubleQuant) => {
        const [rows, cols] = shape;
        const tensor = quantize[kind](gaussian(rows * cols, a), shape, {blockSize, doubleQuant});
        const begin = a % (rows + 1);
        const end = begin + (b % (rows + 1 - begin));
        expect(tensor.dequantizeRows(begin, end)).toEqual(
          tensor.dequantize().subarray(begin * cols, end * cols),
        );
      }),
      {numRuns: 60},
    );
  });

  test('gives each value the nearest number, the lower one at a tie', () => {
    const values = gaussian(64 * 20, 5);
    const tensor = quantize[kind](values, [20, 64]);
    const scales = tensor.blockScales();
    const back = tensor.dequantize();
    values.forEach((value, i) => {
      const scale = scales[Math.floor(i / 64)];
      const normal = Math.fround(value * Math.fround(1 / scale));
      const midpoints = sorted.slice(1).map((x, k) => Math.fround(Math.fround(x + sorted[k]) / 2));
      const nearest = sorted[midpoints.filter((middle) => normal > middle).length];
      expect(back[i]).toBe(Math.fround(nearest * scale));
    });
  });

  test('writes into the given array', () => {
    const tensor = quantize[kind](gaussian(35, 1), [5, 7]);
    const out = new Float32Array(14);
    expect(tensor.dequantizeRows(1, 3, out)).toBe(out);
    expect(out).toEqual(tensor.dequantize().subarray(7, 21));
    expect(() => tensor.dequantizeRows(1, 3, new Float32Array(13))).toThrow('expected 14 values, got 13');
    expect(() => tensor.dequantizeRows(2, 6)).toThrow('expected a range within 0 to 5, got 2 to 6');
  });
});

describe('refuses', () => {
  test.each([Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY])(
    '%p, naming tensor and element',
    (bad) => {
      const values = new Float32Array(9000);
      values[8500] = bad;
      const attempt = () => quantizeNF4(values, [9, 1000], {name: 'model.norm.weight'});
      expect(attempt).toThrow(TfjsLoraError);
      expect(attempt).toThrow(
        `model.norm.weight [element 8500]: expected finite values to quantize, got ${bad}`,
      );
      const half = float32ToBfloat16(values);
      expect(() => quantizeNF4(half, [9, 1000], {dtype: 'bfloat16', name: 'w'})).toThrow('w [element 8500]');
    },
  );

  test('sizes that do not fit', () => {
    expect(() => quantizeNF4(new Float32Array(5), [2, 3])).toThrow('expected 6 values for [2, 3], got 5');
    expect(() => quantizeNF4(new Float32Array(6), [2, 3], {blockSize: 48})).toThrow('got 48');
    expect(() => quantizeNF4(new Uint16Array(6), [2, 3])).toThrow(`expected 'bfloat16' or 'float16' bits`);
    expect(() => quantizeNF4(new Float32Array(6), [2, 3], {dtype: 'float16'})).toThrow('got float16');
    expect(() => dequantizeFP4(quantizeNF4(new Float32Array(6), [2, 3]))).toThrow(`expected quantType 'fp4'`);
    expect(() => dequantizeNF4(quantizeFP4(new Float32Array(6), [2, 3]))).toThrow(`expected quantType 'nf4'`);
  });
});
