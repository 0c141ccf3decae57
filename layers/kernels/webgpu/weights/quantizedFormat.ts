import {FP4_CODE, NF4_CODE} from '../../../../quant/blockwise/codebooks.ts';
import type {StorageDtype} from '../../../../quant/float16.ts';
import {type DeviceFormat, groupGrid} from '../../../ops/quantizedMatrix.ts';
import type {StoredTensors} from '../../../ops/storedMatrix.ts';
import {times} from '../device/times.ts';
import {WIDEN} from './unpack16.ts';
import type {WeightFormat} from './weightFormat.ts';

type FourBitFormat = Extract<DeviceFormat, {blockSize: number}>;
type Int8Format = Extract<DeviceFormat, {dtype: 'int8'}>;
type GroupedFormat = Extract<DeviceFormat, {dtype: 'grouped'}>;

/** The format of a quantized matrix, dequantized while it is read, bit for bit as in the method's own library. */
export function quantizedFormat(inputs: StoredTensors, attributes: DeviceFormat): WeightFormat {
  if (attributes.dtype === 'int8') return int8Format(inputs, attributes);
  return attributes.dtype === 'grouped'
    ? groupedFormat(inputs, attributes)
    : fourBitFormat(inputs, attributes);
}

/**
 * WGSL of `fn rounded(v: vec4f, scale: f32) -> vec4f`, which rounds products of codes and a scale to a type's nearest
 * numbers, ties to even, by their bits. It uses neither the device's own 16-bit floats, which some drivers flush, nor
 * sums that a compiler may rearrange.
 *
 * @param least the smallest magnitude of a code other than 0
 * @param most the largest magnitude of a code
 */
const ROUND: Record<StorageDtype, (least: number, most: number) => string> = {
  float32: () => `
fn rounded(v: vec4f, scale: f32) -> vec4f { return v; }`,
  bfloat16: () => `
fn rounded(v: vec4f, scale: f32) -> vec4f {
  let bits = bitcast<vec4u>(v);
  return bitcast<vec4f>((bits + 0x7fffu + ((bits >> vec4u(16u)) & vec4u(1u))) & vec4u(0xffff0000u));
}`,
  float16: (least, most) => `
fn rounded(v: vec4f, scale: f32) -> vec4f {
  let bits = bitcast<vec4u>(v);
  if (scale >= f32(${2 ** -14 / least}) && scale < f32(${65504 / most})) { // all are normal numbers or 0
    return bitcast<vec4f>((bits + 0xfffu + ((bits >> vec4u(13u)) & vec4u(1u))) & vec4u(0xffffe000u));
  }
  let magnitude = bits & vec4u(0x7fffffffu);
  let near = (magnitude + 0xfffu + ((magnitude >> vec4u(13u)) & vec4u(1u))) & vec4u(0xffffe000u);
  let finite = select(near, vec4u(0x7f800000u), near >= vec4u(0x47800000u)); // beyond the largest: infinity
  let small = bitcast<vec4u>(round(bitcast<vec4f>(magnitude) * 0x1p24f) * 0x1p-24f); // in steps of subnormal halves
  return bitcast<vec4f>(select(finite, small, magnitude < vec4u(0x38800000u)) | (bits & vec4u(0x80000000u)));
}`,
};

/** WGSL of a table in which one look-up finds both values of a byte. */
const PREPARE_PAIRS = `
  for (var i = local; i < 256u; i += WORKGROUP) {
    var book = BOOK;
    pairs[i] = vec2f(book[i / 16u], book[i % 16u]);
  }
  workgroupBarrier();`;

function fourBitFormat(inputs: StoredTensors, attributes: FourBitFormat): WeightFormat {
  const {codes, absmax, absmaxCodes, nestedAbsmax, map} = inputs;
  const {dtype, cols, blockSize, nestedBlockSize, offset, valueDtype} = attributes;
  const isNested = nestedBlockSize > 0;
  return {
    key: `${dtype} ${cols} ${blockSize} ${nestedBlockSize} ${valueDtype}`,
    buffers: isNested
      ? {codes: 'u32', absmaxCodes: 'u32', nestedAbsmax: 'f32', map: 'f32'}
      : {codes: 'u32', absmax: 'f32'},
    tensors: isNested ? {codes, absmaxCodes, nestedAbsmax, map} : {codes, absmax},
    uniforms: isNested ? {offset: 'f32'} : {},
    values: isNested ? {offset} : {},
    prepare: PREPARE_PAIRS,
    octet: () => fourBitOctet(attributes),
  };
}

function fourBitOctet({dtype, cols, blockSize, nestedBlockSize, valueDtype}: FourBitFormat): string {
  const codes = Array.from(dtype === 'nf4' ? NF4_CODE : FP4_CODE);
  const book = codes.map((value) => `f32(${value})`).join(', ');
  const least = Math.min(...codes.map(Math.abs).filter((value) => value > 0));
  const nestedAbsmax = `let code = (absmaxCodes[block / 4u] >> (8u * (block % 4u))) & 255u;
  let scaled = map[code] * nestedAbsmax[block / ${nestedBlockSize}u];
  return scaled + u.offset;`;
  const bytes = [0, 1, 2, 3].map((i) => `pairs[(word >> ${8 * i}u) & 255u]`);
  const aligned = `
fn weightOctet(row: u32, col: u32) -> mat2x4f {
  let first = row * COLS + col;
  let word = codes[first / 8u];
  let scale = absmaxOf(first / ${blockSize}u);
  return mat2x4f(
    rounded(vec4f(${bytes[0]}, ${bytes[1]}) * scale, scale),
    rounded(vec4f(${bytes[2]}, ${bytes[3]}) * scale, scale),
  );
}`;
  const each = Array.from({length: 8}, (_, i) => `weightAt(first + ${i}u, end)`);
  const unaligned = `
fn weightAt(at: u32, end: u32) -> f32 {
  if (at >= end) { return 0.0; }
  let pair = pairs[(codes[at / 8u] >> (8u * (at % 8u / 2u))) & 255u];
  return select(pair.x, pair.y, at % 2u == 1u) * absmaxOf(at / ${blockSize}u);
}
fn weightOctet(row: u32, col: u32) -> mat2x4f {
  let first = row * COLS + col;
  let end = (row + 1u) * COLS;
  // A scale of 0: rows may end within a block.
  return mat2x4f(
    rounded(vec4f(${each.slice(0, 4).join(', ')}), 0.0),
    rounded(vec4f(${each.slice(4).join(', ')}), 0.0),
  );
}`;
  return `
const BOOK = array<f32, 16>(${book});
const COLS = ${cols}u;
${ROUND[valueDtype](least, 1)}
var<workgroup> pairs: array<vec2f, 256>;
fn absmaxOf(block: u32) -> f32 {
  ${nestedBlockSize > 0 ? nestedAbsmax : 'return absmax[block];'}
}
${cols % 8 === 0 ? aligned : unaligned}`;
}

/** WGSL that reads four codes at once, as `fn codesAt(octet: u32) -> mat2x4f`. */
const GROUPED_CODES: Record<GroupedFormat['codeType'], string> = {
  uint4: `
fn codesAt(octet: u32) -> mat2x4f {
  let word = codes[octet];
  let shifts = vec4u(0u, 4u, 8u, 12u);
  return mat2x4f(vec4f((vec4u(word) >> shifts) & vec4u(15u)), vec4f((vec4u(word >> 16u) >> shifts) & vec4u(15u)));
}`,
  uint8: `
fn codesAt(octet: u32) -> mat2x4f {
  return mat2x4f(vec4f(unpack4xU8(codes[2u * octet])), vec4f(unpack4xU8(codes[2u * octet + 1u])));
}`,
  e4m3: `
fn float8(codes: vec4u) -> vec4f {
  let magnitude = codes & vec4u(127u);
  let normal = (magnitude << vec4u(20u)) + vec4u(0x3c000000u);
  let small = bitcast<vec4u>(vec4f(magnitude) * 0x1p-9f);
  let bits = select(select(normal, small, magnitude < vec4u(8u)), vec4u(0x7fc00000u), magnitude == vec4u(127u));
  return bitcast<vec4f>(bits | ((codes & vec4u(128u)) << vec4u(24u)));
}
fn codesAt(octet: u32) -> mat2x4f {
  return mat2x4f(float8(unpack4xU8(codes[2u * octet])), float8(unpack4xU8(codes[2u * octet + 1u])));
}`,
};

function groupedFormat(inputs: StoredTensors, attributes: GroupedFormat): WeightFormat {
  const {codes, scales: groupScales, zeros, groupIndex} = inputs;
  const {cols, codeType, groupRows, groupCols, hasZeros, hasIndex, valueDtype} = attributes;
  return {
    key: `${codeType} ${cols} ${groupRows} ${groupCols} ${hasZeros} ${hasIndex} ${valueDtype}`,
    buffers: {
      codes: 'u32',
      groupScales: 'f32',
      ...(hasZeros && ({zeros: 'u32'} as const)),
      ...(hasIndex && ({groupIndex: 'i32'} as const)),
    },
    tensors: {codes, groupScales, ...(hasZeros && {zeros}), ...(hasIndex && {groupIndex})},
    uniforms: {},
    values: {},
    prepare: '',
    octet: () => groupedOctet(attributes),
  };
}

function groupedOctet(attributes: GroupedFormat): string {
  const {cols, codeType, groupRows, groupCols, hasZeros, hasIndex, valueDtype} = attributes;
  const [, across] = groupGrid(attributes);
  const [least, most] = codeType === 'e4m3' ? [2 ** -9, 448] : [1, codeType === 'uint4' ? 15 : 255];
  const together = `
  let group = first + col / ${groupCols}u;
  let scale = groupScales[group];
  let zero = vec4f(zeroOf(group));
  return mat2x4f(rounded((code[0] - zero) * scale, scale), rounded((code[1] - zero) * scale, scale));`;
  const groupOf = (i: number) =>
    hasIndex ? `first + u32(groupIndex[col + ${i}u])` : `first + (col + ${i}u) / ${groupCols}u`;
  const apart = `
  var values: mat2x4f;
  ${times(
    8,
    (i) => `let group${i} = ${groupOf(i)};
  values[${i >> 2}][${i & 3}] = (code[${i >> 2}][${i & 3}] - zeroOf(group${i})) * groupScales[group${i}];`,
  )}
  return mat2x4f(rounded(values[0], 0.0), rounded(values[1], 0.0)); // a scale of 0: they have scales of their own`;
  return `
const COLS = ${cols}u;
${ROUND[valueDtype](least, most)}
${GROUPED_CODES[codeType]}
fn zeroOf(group: u32) -> f32 {
  ${hasZeros ? 'return f32((zeros[group / 4u] >> (8u * (group % 4u))) & 255u);' : 'return 0.0;'}
}
fn weightOctet(row: u32, col: u32) -> mat2x4f {
  let code = codesAt((row * COLS + col) / 8u);
  let first = row / ${groupRows}u * ${across}u;
  ${!hasIndex && groupCols % 8 === 0 ? together : apart}
}`;
}

function int8Format(inputs: StoredTensors, attributes: Int8Format): WeightFormat {
  const {codes, scales: rowScales, outlierIndex, outlierValues} = inputs;
  const {cols, outliers, outlierDtype} = attributes;
  const hasOutliers = outliers > 0;
  return {
    key: `int8 ${cols} ${outliers} ${outlierDtype}`,
    buffers: hasOutliers
      ? {codes: 'u32', rowScales: 'f32', outlierIndex: 'i32', outlierValues: 'u32'}
      : {codes: 'u32', rowScales: 'f32'},
    tensors: hasOutliers ? {codes, rowScales, outlierIndex, outlierValues} : {codes, rowScales},
    uniforms: {},
    values: {},
    prepare: '',
    octet: () => int8Octet(attributes),
  };
}

function int8Octet({cols, outliers, outlierDtype}: Int8Format): string {
  const hasOutliers = outliers > 0;
  const outlier = `
${WIDEN[outlierDtype]}
fn outlierAt(row: u32, place: u32) -> f32 {
  let pair = widen(outlierValues[row * ${Math.ceil(outliers / 2)}u + place / 2u]);
  return select(pair.x, pair.y, place % 2u == 1u);
}`;
  const one127 = `${Math.fround(1 / 127)}f`; // bitsandbytes multiplies by this
  const putOutliers = times(
    8,
    (i) => `let place${i} = outlierIndex[col + ${i}u];
  if (place${i} >= 0) { values[${i >> 2}][${i & 3}] = outlierAt(row, u32(place${i})); }`,
  );
  const aligned = `
fn weightOctet(row: u32, col: u32) -> mat2x4f {
  let at = (row * COLS + col) / 4u;
  var values = mat2x4f(vec4f(unpack4xI8(codes[at])), vec4f(unpack4xI8(codes[at + 1u])));
  values = mat2x4f(values[0] * rowScales[row] * ${one127}, values[1] * rowScales[row] * ${one127});
  ${hasOutliers ? putOutliers : ''}
  return values;
}`;
  const each = Array.from({length: 8}, (_, i) => `weightAt(row, col + ${i}u)`);
  const unaligned = `
fn weightAt(row: u32, col: u32) -> f32 {
  if (col >= COLS) { return 0.0; }
  ${hasOutliers ? 'if (outlierIndex[col] >= 0) { return outlierAt(row, u32(outlierIndex[col])); }' : ''}
  let at = row * COLS + col;
  let code = f32(extractBits(i32(codes[at / 4u]), 8u * (at % 4u), 8u));
  return code * rowScales[row] * ${one127};
}
fn weightOctet(row: u32, col: u32) -> mat2x4f {
  return mat2x4f(vec4f(${each.slice(0, 4).join(', ')}), vec4f(${each.slice(4).join(', ')}));
}`;
  return `
${hasOutliers ? outlier : ''}
const COLS = ${cols}u;
${cols % 8 === 0 ? aligned : unaligned}`;
}
