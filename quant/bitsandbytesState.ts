import {FP4_CODE, NF4_CODE} from './blockwise/codebooks.ts';
import type {NestedAbsmax} from './blockwise/doubleQuantization.ts';
import type {FourBitType} from './blockwise/fourBit.ts';
import {decodeUtf8} from './decodeUtf8.ts';
import {TfjsLoraError} from './errors.ts';
import type {StorageDtype} from './float16.ts';
import {FourBitTensor} from './fourBitTensor.ts';
import {Int8Tensor} from './int8.ts';
import {parseStrictJson} from './parseJson.ts';
import type {MatrixShape} from './quantizedTensor.ts';
import {isCount, type SafetensorsDtype} from './safetensors/safetensorsDtype.ts';
import type {TensorToWrite} from './safetensors/writeSafetensors.ts';
import {show} from './show.ts';

/** Names of tensors. */
export interface TensorNames {
  has(name: string): boolean;
  /** The `quantization_config` of the model that the tensors belong to, if it is known. */
  readonly quantizationConfig?: Readonly<Record<string, unknown>>;
}

/** Tensors that can be read by name, such as a `SafetensorsFile` or a `SafetensorsFolder`. */
export interface TensorSource extends TensorNames {
  info(name: string): {readonly dtype: SafetensorsDtype; readonly shape: readonly number[]};
  read(name: string): Uint8Array;
  /** Names of tensors beside a weight that the model has no place for: AutoGPTQ stores biases of layers that have none. */
  readonly extras?: readonly string[];
}

const FOUR_BIT_TYPES: readonly FourBitType[] = ['nf4', 'fp4'];
/** A file may store a 4-bit weight as any of these dtypes; the bytes are the same. */
const STORAGE_DTYPES: readonly SafetensorsDtype[] = ['U8', 'BF16', 'F16', 'F32'];
const DTYPES: readonly StorageDtype[] = ['float32', 'float16', 'bfloat16'];

/**
 * Returns the bitsandbytes format in which a model's files store the weight `name` (`….q_proj.weight`), or undefined
 * when the weight is not quantized.
 */
export function bitsandbytesType(name: string, source: TensorNames): FourBitType | 'int8' | undefined {
  const type = FOUR_BIT_TYPES.find((each) => source.has(stateKey(name, each)));
  return type ?? (name.endsWith('weight') && source.has(scaleKey(name)) ? 'int8' : undefined);
}

/**
 * Returns the names of all tensors that belong to the quantized weight `name`, itself included. None of the others is
 * a weight in its own right.
 */
export function bitsandbytesKeys(name: string, source: TensorNames): string[] {
  const suffixes = ['absmax', 'quant_map', 'nested_absmax', 'nested_quant_map'];
  return [
    name,
    ...suffixes.map((suffix) => `${name}.${suffix}`),
    ...FOUR_BIT_TYPES.map((type) => stateKey(name, type)),
    scaleKey(name),
    formatKey(name),
  ].filter((key) => source.has(key));
}

/**
 * Returns the tensors that bitsandbytes and transformers read as the quantized weight `name`, for `writeSafetensors`.
 * 4-bit codes are written as U8 `[bytes, 1]`.
 *
 * @param name the weight's own key, `….q_proj.weight`
 * @throws TfjsLoraError `UNSUPPORTED` for an int8 matrix with outlier columns, which the format has no place for
 */
export function toTensors(name: string, matrix: FourBitTensor | Int8Tensor): TensorToWrite[] {
  return matrix instanceof Int8Tensor ? int8ToTensors(name, matrix) : fourBitToTensors(name, matrix);
}

function fourBitToTensors(name: string, matrix: FourBitTensor): TensorToWrite[] {
  const {quantType, packed, absmax, code} = matrix;
  const state = new TextEncoder().encode(stateJson(matrix));
  const tensors: TensorToWrite[] = [
    {name, dtype: 'U8', shape: [packed.length, 1], data: packed},
    {name: `${name}.quant_map`, dtype: 'F32', shape: [16], data: code as Float32Array},
    {name: stateKey(name, quantType), dtype: 'U8', shape: [state.length], data: state},
  ];
  const scalesKey = `${name}.absmax`;
  if (absmax instanceof Float32Array) {
    return [...tensors, {name: scalesKey, dtype: 'F32', shape: [absmax.length], data: absmax}];
  }
  const {quantized, nestedAbsmax, map} = absmax;
  return [
    ...tensors,
    {name: scalesKey, dtype: 'U8', shape: [quantized.length], data: quantized},
    {name: `${name}.nested_absmax`, dtype: 'F32', shape: [nestedAbsmax.length], data: nestedAbsmax},
    {name: `${name}.nested_quant_map`, dtype: 'F32', shape: [map.length], data: map},
  ];
}

/** Writes the JSON as Python does, so that files are equal byte for byte. */
function stateJson({quantType, blockSize, dtype, shape, absmax}: FourBitTensor): string {
  const entries: [string, string][] = [
    ['quant_type', `"${quantType}"`],
    ['blocksize', `${blockSize}`],
    ['dtype', `"${dtype}"`],
    ['shape', `[${shape[0]}, ${shape[1]}]`],
  ];
  if (!(absmax instanceof Float32Array)) {
    entries.push(
      ['nested_blocksize', `${absmax.nestedBlockSize}`],
      ['nested_dtype', '"float32"'],
      ['nested_offset', pythonFloat(absmax.offset)],
    );
  }
  return `{${entries.map(([key, value]) => `"${key}": ${value}`).join(', ')}}`;
}

/** Writes a number as Python's repr writes a float: JavaScript's digits, but a different rule for exponents. */
function pythonFloat(value: number): string {
  const [digits, exponent] = value.toExponential().split('e');
  const power = Number(exponent);
  if (value !== 0 && (power < -4 || power >= 16)) {
    return `${digits}e${power < 0 ? '-' : '+'}${String(Math.abs(power)).padStart(2, '0')}`;
  }
  if (Object.is(value, -0)) return '-0.0';
  return Number.isInteger(value) ? `${value}.0` : `${value}`;
}

function int8ToTensors(name: string, {codes, rowAbsmax, shape, outliers}: Int8Tensor): TensorToWrite[] {
  if (outliers !== undefined) {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `Tensor ${name} [int8]: expected no outlier columns, got ${outliers.columns.length}: bitsandbytes' file format ` +
        'has no place for them. Quantize with threshold 0, or save the dequantized weight.',
    );
  }
  return [
    {name, dtype: 'I8', shape: [...shape], data: codes},
    {name: scaleKey(name), dtype: 'F32', shape: [rowAbsmax.length], data: rowAbsmax},
    // 0 means row-major, the only format that bitsandbytes still supports.
    {name: formatKey(name), dtype: 'U8', shape: [], data: Uint8Array.of(0)},
  ];
}

/**
 * Reads the quantized weight `name` from files in bitsandbytes' format, with or without double quantization,
 * regardless of the dtype that the codes are stored in.
 *
 * @param name the weight's own key, `….q_proj.weight`
 * @param dtype dtype of an int8 weight before quantization, which its file does not say. Default float16
 * @throws TfjsLoraError `MISSING_TENSOR`, `SHAPE_MISMATCH`, `CORRUPT_FILE`, `UNSUPPORTED`, naming tensor and key
 */
export function fromTensors(
  name: string,
  source: TensorSource,
  dtype: StorageDtype = 'float16',
): FourBitTensor | Int8Tensor {
  const type = bitsandbytesType(name, source);
  if (type === undefined) {
    throw new TfjsLoraError(
      'MISSING_TENSOR',
      `Tensor ${name} [${stateKey(name, 'nf4')}]: expected bitsandbytes' state of a quantized weight, got none. ` +
        'Read the weight as it is.',
    );
  }
  return type === 'int8' ? readInt8(name, source, dtype) : readFourBit(name, source, type);
}

function readFourBit(name: string, source: TensorSource, quantType: FourBitType): FourBitTensor {
  const state = readState(name, source, quantType);
  const {blockSize, shape, dtype} = state;
  const elements = shape[0] * shape[1];
  const blocks = Math.ceil(elements / blockSize);
  const bytes = Math.ceil(elements / 2);

  const packed = readAs(source, name, STORAGE_DTYPES);
  if (packed.length !== bytes) {
    throw wrongSize(name, `${bytes} bytes for [${shape}] in 4 bits`, `${packed.length}`);
  }
  const expectedCode = quantType === 'nf4' ? NF4_CODE : FP4_CODE;
  const mapKey = `${name}.quant_map`;
  const code = readFloats(source, mapKey, 16);
  if (!code.every((value, i) => value === expectedCode[i])) {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `Tensor ${mapKey}: expected the ${quantType} numbers, got ${show([...code])}. ` +
        'This weight was quantized with a custom code book.',
    );
  }
  const parts = {quantType, shape, blockSize, packed, dtype};
  const scalesKey = `${name}.absmax`;
  if (state.nested === undefined) {
    return new FourBitTensor({...parts, absmax: readFloats(source, scalesKey, blocks)});
  }
  const {nestedBlockSize, offset} = state.nested;
  const quantized = readAs(source, scalesKey, ['U8']);
  if (quantized.length !== blocks) throw wrongSize(scalesKey, `${blocks} values`, `${quantized.length}`);
  const nestedAbsmax = readFloats(source, `${name}.nested_absmax`, Math.ceil(blocks / nestedBlockSize));
  const map = readFloats(source, `${name}.nested_quant_map`, 256);
  const absmax: NestedAbsmax = {quantized, nestedAbsmax, offset, nestedBlockSize, map};
  return new FourBitTensor({...parts, absmax});
}

interface FourBitState {
  blockSize: number;
  shape: MatrixShape;
  dtype: StorageDtype;
  nested?: {nestedBlockSize: number; offset: number};
}

function readState(name: string, source: TensorSource, quantType: FourBitType): FourBitState {
  const key = stateKey(name, quantType);
  const fail = (field: string, expected: string, got: unknown, cause?: unknown) =>
    new TfjsLoraError(
      'CORRUPT_FILE',
      `Tensor ${key} [${field}]: expected ${expected}, got ${show(got)}. Quantize and save the model again.`,
      {cause},
    );
  const text = decodeUtf8(readAs(source, key, ['U8']), `Tensor ${key}`);
  let state: Record<string, unknown>;
  try {
    state = parseStrictJson(text) as Record<string, unknown>;
  } catch (cause) {
    throw fail('JSON', 'an object', text, cause);
  }
  if (typeof state !== 'object' || state === null) throw fail('JSON', 'an object', state);
  const {quant_type: type, blocksize: blockSize, dtype, shape} = state;
  if (type !== quantType) throw fail('quant_type', `"${quantType}"`, type);
  if (!isCount(blockSize) || blockSize === 0) throw fail('blocksize', 'a whole number above 0', blockSize);
  if (!DTYPES.includes(dtype as StorageDtype)) throw fail('dtype', `one of ${DTYPES.join(', ')}`, dtype);
  if (!Array.isArray(shape) || shape.length !== 2 || !shape.every(isCount)) {
    throw fail('shape', '[outputs, inputs]', shape);
  }
  const parts = {blockSize, dtype: dtype as StorageDtype, shape: [shape[0], shape[1]] as const};
  const isNested = source.has(`${name}.nested_absmax`);
  const {nested_blocksize: nestedBlockSize, nested_dtype: nestedDtype, nested_offset: offset} = state;
  if (!isNested) {
    if (nestedBlockSize === undefined) return parts;
    source.info(`${name}.nested_absmax`); // throws: it is missing; the message lists similar names
  }
  if (!isCount(nestedBlockSize) || nestedBlockSize === 0) {
    throw fail('nested_blocksize', 'a whole number above 0', nestedBlockSize);
  }
  if (nestedDtype !== 'float32') throw fail('nested_dtype', '"float32"', nestedDtype);
  if (typeof offset !== 'number') throw fail('nested_offset', 'a number', offset);
  return {...parts, nested: {nestedBlockSize, offset: Math.fround(offset)}};
}

function readInt8(name: string, source: TensorSource, dtype: StorageDtype): Int8Tensor {
  const {shape} = source.info(name);
  if (shape.length !== 2) throw wrongSize(name, '[outputs, inputs]', `[${shape}]`);
  const format = source.has(formatKey(name)) ? readAs(source, formatKey(name), ['U8'])[0] : 0;
  if (format !== 0) {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `Tensor ${formatKey(name)}: expected 0 (row-major), got ${format}. ` +
        'Save the model with bitsandbytes 0.46 or later.',
    );
  }
  const bytes = readAs(source, name, ['I8']);
  const codes = new Int8Array(bytes.buffer, bytes.byteOffset, bytes.length);
  const rowAbsmax = readFloats(source, scaleKey(name), shape[0]);
  return new Int8Tensor({shape: [shape[0], shape[1]], codes, rowAbsmax, dtype});
}

function readFloats(source: TensorSource, key: string, count: number): Float32Array {
  const bytes = readAs(source, key, ['F32']);
  if (bytes.length !== 4 * count) throw wrongSize(key, `${count} values`, `${bytes.length / 4}`);
  const aligned = bytes.byteOffset % 4 === 0 ? bytes : bytes.slice();
  return new Float32Array(aligned.buffer, aligned.byteOffset, count);
}

function readAs(source: TensorSource, key: string, dtypes: readonly SafetensorsDtype[]): Uint8Array {
  const {dtype} = source.info(key);
  if (!dtypes.includes(dtype)) throw wrongSize(key, `dtype ${dtypes.join(' or ')}`, dtype);
  return source.read(key);
}

function wrongSize(key: string, expected: string, got: string): TfjsLoraError {
  return new TfjsLoraError(
    'SHAPE_MISMATCH',
    `Tensor ${key} [bitsandbytes]: expected ${expected}, got ${got}. Quantize and save the model again.`,
  );
}

function stateKey(name: string, type: FourBitType): string {
  return `${name}.quant_state.bitsandbytes__${type}`;
}

/** The tensors of int8 are named beside the weight, not below it: `q_proj.SCB`. */
function scaleKey(name: string): string {
  return name.replace(/weight$/, 'SCB');
}

function formatKey(name: string): string {
  return name.replace(/weight$/, 'weight_format');
}
