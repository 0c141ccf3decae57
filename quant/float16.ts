import {TfjsLoraError} from './errors.ts';

/**
 * Storage type of a weight matrix. tfjs has no 16-bit tensors, so a `bfloat16` or `float16` matrix of shape
 * `[rows, cols]` is stored as packed rows: int32 `[rows, ceil(cols / 2)]`, where word j of a row holds element 2j in
 * its low 16 bits and element 2j + 1 in its high 16 bits. With even `cols` that is exactly the little-endian
 * bytes of a file viewed as int32; with odd `cols` the last high half of each row is 0.
 */
export type StorageDtype = 'float32' | 'bfloat16' | 'float16';

/** The 16-bit members of {@link StorageDtype}: those that are stored packed. */
export type HalfDtype = Exclude<StorageDtype, 'float32'>;

/**
 * Converts float32 to bfloat16 bits, rounded to nearest even. Overflow rounds to infinity; a NaN stays a NaN with its
 * sign and the payload bits that fit, so bfloat16 → float32 → bfloat16 gives back every one of the 65,536 patterns.
 *
 * @param out receives the bits, same length as `values`; a new array by default
 * @throws TfjsLoraError `SHAPE_MISMATCH` when `out` has another length
 */
export function float32ToBfloat16(
  values: Float32Array,
  out: Uint16Array = new Uint16Array(values.length),
): Uint16Array {
  assertLength('float32ToBfloat16 out', out.length, values.length);
  // Bits, not numbers: reading a NaN as a JavaScript number may change its payload.
  const words = new Int32Array(values.buffer, values.byteOffset, values.length);
  for (let i = 0; i < words.length; i++) {
    const word = words[i];
    if ((word & 0x7fffffff) > 0x7f800000) {
      const top = word >>> 16;
      // If all bits of the payload are lost, the result would be an infinity.
      out[i] = (top & 0x7f) === 0 ? top | 0x40 : top;
    } else {
      out[i] = (word + 0x7fff + ((word >>> 16) & 1)) >>> 16;
    }
  }
  return out;
}

/**
 * Converts bfloat16 bits to float32 exactly.
 *
 * @param out receives the values, same length as `bits`; a new array by default
 * @throws TfjsLoraError `SHAPE_MISMATCH` when `out` has another length
 */
export function bfloat16ToFloat32(
  bits: Uint16Array,
  out: Float32Array = new Float32Array(bits.length),
): Float32Array {
  assertLength('bfloat16ToFloat32 out', out.length, bits.length);
  const words = new Int32Array(out.buffer, out.byteOffset, out.length);
  for (let i = 0; i < bits.length; i++) words[i] = bits[i] << 16;
  return out;
}

/**
 * Converts float32 to float16 (IEEE 754 binary16) bits, rounded to nearest even, subnormals included. 65,520 and above
 * become infinity; a NaN stays a NaN with its sign and the payload bits that fit, so float16 → float32 → float16
 * gives back every one of the 65,536 patterns.
 *
 * @param out receives the bits, same length as `values`; a new array by default
 * @throws TfjsLoraError `SHAPE_MISMATCH` when `out` has another length
 */
export function float32ToFloat16(
  values: Float32Array,
  out: Uint16Array = new Uint16Array(values.length),
): Uint16Array {
  assertLength('float32ToFloat16 out', out.length, values.length);
  const words = new Int32Array(values.buffer, values.byteOffset, values.length);
  for (let i = 0; i < words.length; i++) {
    const word = words[i];
    const magnitude = word & 0x7fffffff;
    let half: number;
    if (magnitude >= 0x38800000 && magnitude < 0x47800000) {
      // Normal, 2^-14 to just under 2^16: move the exponent's bias from 127 to 15; a carry runs into the
      // exponent, and past the largest half into infinity, as it should.
      half = (magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1)) >>> 13;
    } else if (magnitude < 0x38800000) {
      half = subnormalHalf(magnitude);
    } else if (magnitude > 0x7f800000) {
      const payload = (magnitude >>> 13) & 0x3ff;
      half = 0x7c00 | (payload === 0 ? 0x200 : payload);
    } else {
      half = 0x7c00;
    }
    out[i] = ((word >>> 16) & 0x8000) | half;
  }
  return out;
}

/** Rounds a float32 magnitude below 2^-14 to a half, in units of 2^-24, the spacing of subnormal halves. */
function subnormalHalf(magnitude: number): number {
  const shift = 126 - (magnitude >>> 23);
  if (shift > 24) return 0; // below half a unit
  const significand = (magnitude & 0x7fffff) | 0x800000;
  const units = significand >>> shift;
  const rest = significand & ((1 << shift) - 1);
  const half = 1 << (shift - 1);
  return rest > half || (rest === half && (units & 1) === 1) ? units + 1 : units;
}

/**
 * Converts float16 bits to float32 exactly, by a table of all 65,536 values.
 *
 * @param out receives the values, same length as `bits`; a new array by default
 * @throws TfjsLoraError `SHAPE_MISMATCH` when `out` has another length
 */
export function float16ToFloat32(
  bits: Uint16Array,
  out: Float32Array = new Float32Array(bits.length),
): Float32Array {
  assertLength('float16ToFloat32 out', out.length, bits.length);
  float16Table ??= buildFloat16Table();
  const table = float16Table;
  const words = new Int32Array(out.buffer, out.byteOffset, out.length);
  for (let i = 0; i < bits.length; i++) words[i] = table[bits[i]];
  return out;
}

/** Returns the number that 16 bits stand for as float16. */
export function halfToNumber(bits: number): number {
  float16Table ??= buildFloat16Table();
  float16Values ??= new Float32Array(float16Table.buffer);
  return float16Values[bits];
}

/** float32 bits of each half: 256 KiB, built on first use. */
let float16Table: Int32Array | undefined;

/** The same memory, as numbers. */
let float16Values: Float32Array | undefined;

function buildFloat16Table(): Int32Array {
  const floats = new Float32Array(0x10000);
  const words = new Int32Array(floats.buffer);
  for (let half = 0; half < 0x8000; half++) {
    const exponent = half >>> 10;
    const fraction = half & 0x3ff;
    if (exponent === 0) floats[half] = fraction * 2 ** -24;
    else if (exponent === 31) words[half] = 0x7f800000 | (fraction << 13);
    else words[half] = ((exponent + 112) << 23) | (fraction << 13);
    words[half | 0x8000] = words[half] | 0x80000000;
  }
  return words;
}

/** Converts float32 values to a storage type: unchanged for `float32`, otherwise 16-bit bits. */
export function fromFloat32(values: Float32Array, dtype: StorageDtype): Float32Array | Uint16Array {
  return dtype === 'float32' ? values : halfConversion(dtype).narrow(values);
}

/** Rounds float32 values in place to the nearest values of a type, ties to even; `float32` changes nothing. */
export function roundInPlace(values: Float32Array, dtype: StorageDtype): Float32Array {
  if (dtype === 'float32') return values;
  const {narrow, widen} = halfConversion(dtype);
  const scratch = new Uint16Array(Math.min(values.length, ROUNDED_AT_ONCE));
  for (let begin = 0; begin < values.length; begin += ROUNDED_AT_ONCE) {
    const part = values.subarray(begin, begin + ROUNDED_AT_ONCE);
    widen(narrow(part, scratch.subarray(0, part.length)), part);
  }
  return values;
}

/** Number of values that stay in the processor's cache between the two conversions. */
const ROUNDED_AT_ONCE = 4096;

/** Returns the number of int32 words in a packed row of `cols` 16-bit values: `ceil(cols / 2)`. */
export function wordsPerRow(cols: number): number {
  return Math.ceil(cols / 2);
}

/**
 * Packs 16-bit values `[rows, cols]` into int32 rows `[rows, ceil(cols / 2)]` (layout: {@link StorageDtype}).
 * When `cols` is even and `values` starts on a 4-byte boundary, the result is a view of the same memory, not a copy.
 *
 * @throws TfjsLoraError `SHAPE_MISMATCH` when `values` does not hold `rows · cols` values
 */
export function packRows(values: Uint16Array, rows: number, cols: number): Int32Array {
  assertMatrix('packRows', rows, cols);
  assertLength('packRows values', values.length, rows * cols);
  if (cols % 2 === 0 && values.byteOffset % 4 === 0) {
    return new Int32Array(values.buffer, values.byteOffset, values.length / 2);
  }
  const packed = new Int32Array(rows * wordsPerRow(cols));
  const halves = halvesOf(packed);
  const stride = 2 * wordsPerRow(cols);
  for (let row = 0; row < rows; row++)
    halves.set(values.subarray(row * cols, (row + 1) * cols), row * stride);
  return packed;
}

/**
 * Unpacks rows to their 16-bit values `[rows, cols]`: the inverse of {@link packRows}, for saving a weight
 * bit-exactly. With even `cols` the result is a view of the same memory, not a copy.
 *
 * @throws TfjsLoraError `SHAPE_MISMATCH` when `packed` is not `[rows, ceil(cols / 2)]`
 */
export function unpackRowBits(packed: Int32Array, rows: number, cols: number): Uint16Array {
  assertPacked('unpackRowBits', packed, rows, cols);
  const halves = halvesOf(packed);
  if (cols % 2 === 0) return halves;
  const values = new Uint16Array(rows * cols);
  const stride = cols + 1;
  for (let row = 0; row < rows; row++) {
    values.set(halves.subarray(row * stride, row * stride + cols), row * cols);
  }
  return values;
}

/**
 * Packs float32 `[rows, cols]` into rows of `dtype`, rounded to nearest even, without a matrix of 16-bit
 * values.
 *
 * @throws TfjsLoraError `SHAPE_MISMATCH` when `values` does not hold `rows · cols` values
 */
export function packFloat32Rows(
  values: Float32Array,
  rows: number,
  cols: number,
  dtype: HalfDtype,
): Int32Array {
  assertMatrix('packFloat32Rows', rows, cols);
  assertLength('packFloat32Rows values', values.length, rows * cols);
  const narrow = halfConversion(dtype).narrow;
  const packed = new Int32Array(rows * wordsPerRow(cols));
  const halves = halvesOf(packed);
  if (cols % 2 === 0) {
    narrow(values, halves);
    return packed;
  }
  const stride = cols + 1;
  for (let row = 0; row < rows; row++) {
    narrow(values.subarray(row * cols, (row + 1) * cols), halves.subarray(row * stride, row * stride + cols));
  }
  return packed;
}

/**
 * Converts packed rows to float32 `[rowEnd - rowBegin, cols]` exactly.
 *
 * @param packed int32 `[rows, ceil(cols / 2)]`
 * @param rowBegin first row, default 0
 * @param rowEnd the row after the last, default `rows`
 * @throws TfjsLoraError `SHAPE_MISMATCH` when `packed` is not `[rows, ceil(cols / 2)]`; `INVALID_ARGUMENT` when the
 *   row range is not within `[0, rows]`
 */
export function unpackRows(
  packed: Int32Array,
  rows: number,
  cols: number,
  dtype: HalfDtype,
  rowBegin = 0,
  rowEnd = rows,
): Float32Array {
  assertPacked('unpackRows', packed, rows, cols);
  assertRowRange('unpackRows', rows, rowBegin, rowEnd);
  const out = new Float32Array((rowEnd - rowBegin) * cols);
  return unpackRowsInto(packed, rows, cols, dtype, out, rowBegin, rowEnd);
}

/**
 * Does what {@link unpackRows} does in the caller's memory: `out` receives rows `rowBegin` to `rowEnd` and must hold
 * exactly `(rowEnd - rowBegin) · cols` values.
 *
 * @returns `out`
 * @throws TfjsLoraError as {@link unpackRows}, and `SHAPE_MISMATCH` when `out` has another length
 */
export function unpackRowsInto(
  packed: Int32Array,
  rows: number,
  cols: number,
  dtype: HalfDtype,
  out: Float32Array,
  rowBegin = 0,
  rowEnd = rows,
): Float32Array {
  assertPacked('unpackRowsInto', packed, rows, cols);
  assertRowRange('unpackRowsInto', rows, rowBegin, rowEnd);
  assertLength('unpackRowsInto out', out.length, (rowEnd - rowBegin) * cols);
  const widen = halfConversion(dtype).widen;
  const halves = halvesOf(packed);
  if (cols % 2 === 0) {
    widen(halves.subarray(rowBegin * cols, rowEnd * cols), out);
    return out;
  }
  const stride = cols + 1;
  for (let row = rowBegin; row < rowEnd; row++) {
    const start = (row - rowBegin) * cols;
    widen(halves.subarray(row * stride, row * stride + cols), out.subarray(start, start + cols));
  }
  return out;
}

const HALF_CONVERSIONS = {
  bfloat16: {narrow: float32ToBfloat16, widen: bfloat16ToFloat32},
  float16: {narrow: float32ToFloat16, widen: float16ToFloat32},
};

function halfConversion(dtype: HalfDtype) {
  const conversion = HALF_CONVERSIONS[dtype];
  if (conversion === undefined) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `Packed rows [dtype]: expected 'bfloat16' or 'float16', got '${dtype}'. float32 is never packed.`,
    );
  }
  return conversion;
}

function halvesOf(packed: Int32Array): Uint16Array {
  return new Uint16Array(packed.buffer, packed.byteOffset, packed.length * 2);
}

function assertPacked(what: string, packed: Int32Array, rows: number, cols: number): void {
  assertMatrix(what, rows, cols);
  assertLength(`${what} packed [${rows}, ${wordsPerRow(cols)}]`, packed.length, rows * wordsPerRow(cols));
}

function assertMatrix(what: string, rows: number, cols: number): void {
  if (!Number.isSafeInteger(rows) || rows < 0 || !Number.isSafeInteger(cols) || cols < 0) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `${what} [rows, cols]: expected whole numbers of at least 0, got [${rows}, ${cols}].`,
    );
  }
}

function assertRowRange(what: string, rows: number, rowBegin: number, rowEnd: number): void {
  if (!Number.isSafeInteger(rowBegin) || !Number.isSafeInteger(rowEnd)) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `${what} rows: expected whole numbers, got ${rowBegin} to ${rowEnd}.`,
    );
  }
  if (rowBegin < 0 || rowEnd < rowBegin || rowEnd > rows) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `${what} rows: expected a range within 0 to ${rows}, got ${rowBegin} to ${rowEnd}.`,
    );
  }
}

function assertLength(what: string, length: number, expected: number): void {
  if (length !== expected) {
    throw new TfjsLoraError('SHAPE_MISMATCH', `${what}: expected ${expected} values, got ${length}.`);
  }
}
