import fc from 'fast-check';
import {
  bfloat16ToFloat32,
  float16ToFloat32,
  float32ToBfloat16,
  float32ToFloat16,
  packFloat32Rows,
  packRows,
  TfjsLoraError,
  unpackRowBits,
  unpackRows,
  unpackRowsInto,
  wordsPerRow,
} from '../../quant/index.ts';
import {golden} from './fixtures/golden.ts';

const FORMATS = [
  {dtype: 'bfloat16', fractionBits: 7, bias: 127, narrow: float32ToBfloat16, widen: bfloat16ToFloat32},
  {dtype: 'float16', fractionBits: 10, bias: 15, narrow: float32ToFloat16, widen: float16ToFloat32},
] as const;
type Format = (typeof FORMATS)[number];

const ALL_BITS = Uint16Array.from({length: 0x10000}, (_, bits) => bits);

/** Returns the number of a non-negative pattern, by the definition. Infinity counts as the next power of two. */
function magnitudeOf(bits: number, {fractionBits, bias}: Format): number {
  const exponent = bits >> fractionBits;
  const fraction = (bits & ((1 << fractionBits) - 1)) / (1 << fractionBits);
  return exponent === 0 ? fraction * 2 ** (1 - bias) : (1 + fraction) * 2 ** (exponent - bias);
}

/** Returns the pattern nearest to a finite magnitude, ties to even. Every difference here is exact in float64. */
function nearest(magnitude: number, format: Format): number {
  const infinity = 0x7fff & ~((1 << format.fractionBits) - 1);
  let low = 0;
  let high = infinity;
  if (magnitude >= magnitudeOf(high, format)) return infinity;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (magnitudeOf(middle, format) <= magnitude) low = middle;
    else high = middle;
  }
  const below = magnitude - magnitudeOf(low, format);
  const above = magnitudeOf(high, format) - magnitude;
  if (below === above) return low % 2 === 0 ? low : high;
  return below < above ? low : high;
}

function floatOfBits(bits: number): Float32Array {
  return new Float32Array(Uint32Array.of(bits).buffer);
}

function bitsOf(values: Float32Array): Uint32Array {
  return new Uint32Array(values.buffer, values.byteOffset, values.length);
}

describe.each(FORMATS)('$dtype', (format) => {
  const {dtype, narrow, widen, fractionBits} = format;
  const infinity = 0x7fff & ~((1 << fractionBits) - 1);

  test('widens all 65,536 patterns to their numbers', () => {
    const values = widen(ALL_BITS);
    for (let bits = 0; bits < 0x8000; bits++) {
      const expected = bits < infinity ? magnitudeOf(bits, format) : bits === infinity ? Infinity : NaN;
      if (!Object.is(values[bits], expected)) throw new Error(`${bits}: ${values[bits]}, not ${expected}`);
      if (!Object.is(values[bits | 0x8000], -expected)) throw new Error(`-${bits}: ${values[bits | 0x8000]}`);
    }
    expect(bitsOf(values)[0x8000]).toBe(0x80000000);
  });

  test('gives back all 65,536 patterns, NaN payloads and signed zeros included', () => {
    expect(narrow(widen(ALL_BITS))).toEqual(ALL_BITS);
  });

  test('rounds as torch does', () => {
    const values = new Float32Array(Uint32Array.from(golden.rounding.float32).buffer);
    expect([...narrow(values)]).toEqual(golden.rounding[dtype]);
  });

  test('rounds any finite float32 to the nearest, ties to even', () => {
    const anyBits = fc.integer({min: 0, max: 0xffffffff});
    // The neighbourhood of any pattern: where exponents change, and the exact midpoints between two halves.
    const nearHalf = fc
      .tuple(fc.nat(0xffff), fc.constantFrom(0, 0.5), fc.integer({min: -1, max: 1}))
      .map(([bits, step, nudge]) => {
        const magnitude = bits & 0x7fff;
        if (magnitude >= infinity) return 0;
        const [low, high] = [magnitudeOf(magnitude, format), magnitudeOf(magnitude + 1, format)];
        return bitsOf(Float32Array.of(low + (high - low) * step))[0] + ((bits & 0x8000) << 16) + nudge;
      });
    fc.assert(
      fc.property(fc.oneof(anyBits, nearHalf), (bits) => {
        const value = floatOfBits(bits);
        fc.pre(Number.isFinite(value[0]));
        const sign = Object.is(Math.sign(value[0]), -0) || value[0] < 0 ? 0x8000 : 0;
        expect(narrow(value)[0]).toBe(sign | nearest(Math.abs(value[0]), format));
      }),
      {numRuns: 5000},
    );
  });

  test('keeps every NaN a NaN of the same sign, never an infinity', () => {
    const payload = fc.oneof(fc.integer({min: 1, max: 0x7fffff}), fc.constantFrom(1, 0x1fff, 0x7fff));
    fc.assert(
      fc.property(payload, fc.boolean(), (fraction, negative) => {
        const bits = (negative ? 0x80000000 : 0) + 0x7f800000 + fraction;
        const half = narrow(floatOfBits(bits))[0];
        expect(half & 0x7fff).toBeGreaterThan(infinity);
        expect(half >> 15).toBe(negative ? 1 : 0);
      }),
    );
  });

  test('writes into the given array', () => {
    const values = Float32Array.of(1, -2, 0.5);
    const bits = new Uint16Array(3);
    expect(narrow(values, bits)).toBe(bits);
    const back = new Float32Array(3);
    expect(widen(bits, back)).toBe(back);
    expect(back).toEqual(values);
    expect(() => narrow(values, new Uint16Array(2))).toThrow(/out: expected 3 values, got 2/);
    expect(() => widen(bits, new Float32Array(4))).toThrow(/out: expected 3 values, got 4/);
  });

  test('reads and writes views at any offset', () => {
    const values = Float32Array.of(9, 1, 2, 9).subarray(1, 3);
    const bits = new Uint16Array(5).subarray(1, 3);
    narrow(values, bits);
    expect([...new Uint16Array(bits.buffer)].map((word) => word !== 0)).toEqual([
      false,
      true,
      true,
      false,
      false,
    ]);
    expect([...widen(bits)]).toEqual([1, 2]);
  });

  test('packs float32 rows as it packs their rounded bits, and unpacks any range of them', () => {
    const matrix = fc
      .tuple(fc.integer({min: 0, max: 6}), fc.integer({min: 0, max: 7}))
      .chain(([rows, cols]) =>
        fc.record({
          rows: fc.constant(rows),
          cols: fc.constant(cols),
          values: fc.float32Array({minLength: rows * cols, maxLength: rows * cols}),
          range: fc.tuple(fc.nat(rows), fc.nat(rows)).map((range) => range.sort((a, b) => a - b)),
        }),
      );
    fc.assert(
      fc.property(matrix, ({rows, cols, values, range: [begin, end]}) => {
        const packed = packFloat32Rows(values, rows, cols, dtype);
        const bits = narrow(values);
        expect(packed).toEqual(packRows(bits, rows, cols));
        const rounded = widen(bits);
        expect(unpackRows(packed, rows, cols, dtype)).toEqual(rounded);
        const slice = rounded.slice(begin * cols, end * cols);
        expect(unpackRows(packed, rows, cols, dtype, begin, end)).toEqual(slice);
        const out = new Float32Array(slice.length);
        expect(unpackRowsInto(packed, rows, cols, dtype, out, begin, end)).toBe(out);
        expect(out).toEqual(slice);
      }),
    );
  });
});

describe('packed rows', () => {
  test('store element 2j in the low half of word j and 2j + 1 in its high half', () => {
    expect([...packRows(Uint16Array.of(0x0102, 0x0304, 0x0506, 0xffff), 2, 2)]).toEqual([0x03040102, -64250]);
  });

  test('end an odd row with a zero high half', () => {
    const packed = packRows(Uint16Array.of(1, 2, 3, 4, 5, 6), 2, 3);
    expect([...packed]).toEqual([0x00020001, 3, 0x00050004, 6]);
    expect([...unpackRowBits(packed, 2, 3)]).toEqual([1, 2, 3, 4, 5, 6]);
  });

  test('of an even width are a view of the same memory, unless it is misaligned', () => {
    const bits = Uint16Array.of(0, 0, 1, 2, 3, 4);
    const packed = packRows(bits.subarray(2), 2, 2);
    expect(packed.buffer).toBe(bits.buffer);
    expect(unpackRowBits(packed, 2, 2)).toEqual(bits.subarray(2));
    expect(unpackRowBits(packed, 2, 2).buffer).toBe(bits.buffer);
    expect([...packRows(bits.subarray(1, 5), 2, 2)]).toEqual([0x00010000, 0x00030002]);
  });

  test.each([
    [0, 0],
    [1, 1],
    [2, 1],
    [5, 3],
  ])('of %i values are %i words', (cols, words) => {
    expect(wordsPerRow(cols)).toBe(words);
  });

  const packed = new Int32Array(4);
  test.each([
    ['packRows', () => packRows(new Uint16Array(5), 2, 3), /packRows values: expected 6 values, got 5/],
    [
      'packFloat32Rows',
      () => packFloat32Rows(new Float32Array(5), 2, 3, 'float16'),
      /expected 6 values, got 5/,
    ],
    ['unpackRows', () => unpackRows(packed, 3, 3, 'bfloat16'), /packed \[3, 2\]: expected 6 values, got 4/],
    ['unpackRowBits', () => unpackRowBits(packed, 1, 3), /packed \[1, 2\]: expected 2 values, got 4/],
    [
      'out',
      () => unpackRowsInto(packed, 2, 3, 'float16', new Float32Array(5)),
      /out: expected 6 values, got 5/,
    ],
    [
      'row range',
      () => unpackRows(packed, 2, 3, 'float16', 1, 3),
      /expected a range within 0 to 2, got 1 to 3/,
    ],
    ['backward range', () => unpackRows(packed, 2, 3, 'float16', 2, 1), /within 0 to 2, got 2 to 1/],
    ['half rows', () => unpackRows(packed, 2, 3, 'float16', 0.5, 1), /expected whole numbers, got 0.5 to 1/],
    ['negative rows', () => packRows(new Uint16Array(6), -2, -3), /expected whole numbers of at least 0/],
    [
      'float32',
      () => packFloat32Rows(new Float32Array(1), 1, 1, 'float32' as never),
      /'bfloat16' or 'float16', got 'float32'/,
    ],
  ])('refuse what does not fit: %s', (_, call, message) => {
    expect(call).toThrow(TfjsLoraError);
    expect(call).toThrow(message);
  });
});
