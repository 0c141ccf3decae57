import {decodeUtf8} from '../decodeUtf8.ts';
import {TfjsLoraError} from '../errors.ts';
import {corruptFile} from '../safetensors/corruptFile.ts';
import {show} from '../show.ts';
import {type GgmlLayout, ggmlByteLength} from './ggmlType.ts';
import {ggmlLayout} from './ggmlTypes.ts';
import {
  GGUF_ALIGNMENT,
  GGUF_VALUE_BYTES,
  GGUF_VALUE_TYPES,
  type GgufArray,
  type GgufScalar,
  type GgufValue,
  type GgufValueType,
} from './ggufValue.ts';

/** A tensor's format and place in a GGUF file. */
export interface GgufTensorInfo {
  readonly type: GgmlLayout;
  /** Sizes with the rows' length last, as in PyTorch; the file lists them the other way round. */
  readonly shape: readonly number[];
  /** Bytes from the start of the file's data: the tensor is `[begin, end)`. */
  readonly begin: number;
  readonly end: number;
}

/** The part before the tensors. */
export interface GgufHeader {
  readonly version: number;
  readonly metadata: ReadonlyMap<string, GgufValue>;
  /** The tensors in the order of their bytes. */
  readonly tensors: ReadonlyMap<string, GgufTensorInfo>;
  /** Position in the file from which `begin` and `end` count. */
  readonly dataStart: number;
}

/** Thrown when the bytes at hand end before the header does. */
export class HeaderIsLonger extends Error {}

/** Most arrays in one another, and dimensions of a tensor: llama.cpp reads no arrays in arrays, and four dimensions. */
const [MAX_NESTED_ARRAYS, MAX_DIMENSIONS] = [4, 4];
/** Most values of an array, sixty times the largest vocabulary. */
const MAX_ARRAY_LENGTH = 1 << 24;

/**
 * Parses and checks the header of a GGUF file of version 2 or 3: known value types, each key and name once, sizes that
 * fit into the file, and tensors of whole blocks one after the other, aligned.
 *
 * @param bytes the beginning of the file, long enough for the header
 * @param fileSize bytes of the whole file
 * @param path the file, for messages
 * @throws TfjsLoraError `CORRUPT_FILE` naming the file and the key; `UNSUPPORTED` for version 1, big-endian files and
 *   unknown types of tensors; {@link HeaderIsLonger} when `bytes` end too early, but the file does not
 */
export function parseGgufHeader(bytes: Uint8Array, fileSize: number, path: string): GgufHeader {
  const reader = new HeaderReader(bytes, fileSize, path);
  const version = readVersion(reader, path);
  const tensorCount = reader.count('tensor count', 8 + 4 + 4 + 8);
  const keyCount = reader.count('metadata count', 8 + 4 + 1);
  const metadata = new Map<string, GgufValue>();
  for (let i = 0; i < keyCount; i++) {
    const key = reader.string(`metadata key ${i}`);
    if (metadata.has(key))
      throw reader.corrupt(`metadata ${show(key)}`, 'expected each key once, got it twice');
    metadata.set(key, readValue(reader, `metadata ${show(key)}`));
  }
  const alignment = alignmentOf(metadata, reader);
  const listed = new Map<string, Omit<GgufTensorInfo, 'end'>>();
  for (let i = 0; i < tensorCount; i++) {
    const name = reader.string(`name of tensor ${i}`);
    if (listed.has(name))
      throw reader.corrupt(`tensor ${show(name)}`, 'expected each name once, got it twice');
    listed.set(name, readTensor(reader, name, path));
  }
  const dataStart = aligned(reader.position, alignment);
  return {version, metadata, tensors: placed(listed, alignment, fileSize - dataStart, reader), dataStart};
}

function readVersion(reader: HeaderReader, path: string): number {
  const magic = String.fromCharCode(...reader.take('file', 4));
  if (magic !== 'GGUF')
    throw reader.corrupt('GGUF file', `expected it to begin with GGUF, got ${show(magic)}`);
  const version = reader.uint32('version');
  if (version === 2 || version === 3) return version;
  const isSwapped = version !== 0 && (version & 0xffff) === 0;
  const got = isSwapped ? 'a big-endian one' : `version ${version}`;
  throw new TfjsLoraError(
    'UNSUPPORTED',
    `GGUF file [${path}]: expected a little-endian file of version 2 or 3, got ${got}. ` +
      'Convert it again with a recent llama.cpp.',
  );
}

function readValue(reader: HeaderReader, what: string): GgufValue {
  const type = readValueType(reader, what);
  if (type === 'array') return {type, items: readArray(reader, what, 1)};
  return {type, value: reader.scalar(type, what)};
}

function readValueType(reader: HeaderReader, what: string): GgufValueType {
  const id = reader.uint32(what);
  const type = GGUF_VALUE_TYPES[id];
  if (type) return type;
  throw reader.corrupt(what, `expected a type from 0 to ${GGUF_VALUE_TYPES.length - 1}, got ${id}`);
}

function readArray(reader: HeaderReader, what: string, depth: number): GgufArray {
  if (depth > MAX_NESTED_ARRAYS)
    throw reader.corrupt(what, `expected at most ${MAX_NESTED_ARRAYS} arrays in one another, got more`);
  const type = readValueType(reader, what);
  const length = reader.count(`${what} length`, GGUF_VALUE_BYTES[type]);
  if (length > MAX_ARRAY_LENGTH)
    throw reader.corrupt(what, `expected at most ${MAX_ARRAY_LENGTH} values, got ${length}`);
  if (type === 'array') {
    const values: GgufArray[] = [];
    for (let i = 0; i < length; i++) values.push(readArray(reader, what, depth + 1));
    return {type, values};
  }
  const values: GgufScalar[] = [];
  for (let i = 0; i < length; i++) values.push(reader.scalar(type, what));
  return {type, values};
}

function alignmentOf(metadata: ReadonlyMap<string, GgufValue>, reader: HeaderReader): number {
  const entry = metadata.get('general.alignment');
  if (!entry) return GGUF_ALIGNMENT;
  const alignment = entry.type === 'uint32' ? (entry.value as number) : 0;
  if (alignment > 0 && (alignment & (alignment - 1)) === 0) return alignment;
  throw reader.corrupt('general.alignment', `expected a power of two of type uint32, got ${show(entry)}`);
}

function readTensor(reader: HeaderReader, name: string, path: string): Omit<GgufTensorInfo, 'end'> {
  const what = `tensor ${show(name)}`;
  const dimensions = reader.uint32(what);
  if (dimensions > MAX_DIMENSIONS)
    throw reader.corrupt(what, `expected at most ${MAX_DIMENSIONS} dimensions, got ${dimensions}`);
  const sizes: number[] = [];
  for (let i = 0; i < dimensions; i++) sizes.push(reader.wholeNumber(`${what} dimension ${i}`));
  if (!Number.isSafeInteger(sizes.reduce((product, size) => product * size, 1)))
    throw reader.corrupt(what, `expected fewer than 2^53 values, got sizes [${sizes}]`);
  const id = reader.uint32(what);
  const type = ggmlLayout(id);
  if (!type) {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `${what} [${path}]: expected a GGML type that gguf 0.19 knows, got number ${id}.`,
    );
  }
  const rowLength = sizes[0] ?? 1;
  if (rowLength % type.valuesPerBlock !== 0)
    throw reader.corrupt(
      what,
      `expected rows of whole ${type.name} blocks of ${type.valuesPerBlock}, got ${rowLength} values`,
    );
  return {type, shape: sizes.reverse(), begin: reader.wholeNumber(`${what} offset`)};
}

/** Checks that the tensors follow one another, aligned, within the data. */
function placed(
  listed: ReadonlyMap<string, Omit<GgufTensorInfo, 'end'>>,
  alignment: number,
  dataBytes: number,
  reader: HeaderReader,
): Map<string, GgufTensorInfo> {
  const ordered = [...listed].sort(([, a], [, b]) => a.begin - b.begin);
  const tensors = new Map<string, GgufTensorInfo>();
  let next = 0;
  for (const [name, info] of ordered) {
    const what = `tensor ${show(name)}`;
    if (info.begin !== next) throw reader.corrupt(what, `expected it to start at ${next}, got ${info.begin}`);
    const end =
      next +
      ggmlByteLength(
        info.type,
        info.shape.reduce((product, size) => product * size, 1),
      );
    if (end > dataBytes)
      throw reader.corrupt(
        what,
        `expected ${end} bytes of data, got ${Math.max(0, dataBytes)}: the file is cut short`,
      );
    tensors.set(name, {...info, end});
    next = aligned(end, alignment);
  }
  return tensors;
}

const aligned = (position: number, alignment: number): number => Math.ceil(position / alignment) * alignment;

/** Reads the parts of a header one after the other. */
class HeaderReader {
  position = 0;
  private readonly view: DataView;

  constructor(
    private readonly bytes: Uint8Array,
    private readonly fileSize: number,
    private readonly path: string,
  ) {
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  corrupt(what: string, fault: string): TfjsLoraError {
    return corruptFile(what, this.path, fault);
  }

  /** Moves past some bytes. */
  take(what: string, length: number): Uint8Array {
    const end = this.position + length;
    if (end > this.fileSize)
      throw this.corrupt(
        what,
        `expected it to end by byte ${this.fileSize}, where the file does, got byte ${end}`,
      );
    if (end > this.bytes.length) throw new HeaderIsLonger();
    const part = this.bytes.subarray(this.position, end);
    this.position = end;
    return part;
  }

  uint32(what: string): number {
    return this.scalar('uint32', what) as number;
  }

  /** Reads a number of 64 bits. */
  wholeNumber(what: string): number {
    const value = this.scalar('uint64', what);
    if (typeof value === 'number') return value;
    throw this.corrupt(what, `expected a number below 2^53, got ${value}`);
  }

  /** Reads how many items follow, and checks that the file has room for them at `bytesEach` bytes or more. */
  count(what: string, bytesEach: number): number {
    const count = this.wholeNumber(what);
    const most = Math.floor((this.fileSize - this.position) / bytesEach);
    if (count > most)
      throw this.corrupt(what, `expected at most ${most} in a file of this size, got ${count}`);
    return count;
  }

  string(what: string): string {
    const length = this.count(`${what} length`, 1);
    return decodeUtf8(this.take(what, length), `${what} [${this.path}]`, this.position - length || 1);
  }

  scalar(type: Exclude<GgufValueType, 'array'>, what: string): GgufScalar {
    if (type === 'string') return this.string(what);
    this.take(what, GGUF_VALUE_BYTES[type]);
    const at = this.position - GGUF_VALUE_BYTES[type];
    const {view} = this;
    switch (type) {
      case 'uint8':
        return view.getUint8(at);
      case 'int8':
        return view.getInt8(at);
      case 'uint16':
        return view.getUint16(at, true);
      case 'int16':
        return view.getInt16(at, true);
      case 'uint32':
        return view.getUint32(at, true);
      case 'int32':
        return view.getInt32(at, true);
      case 'float32':
        return view.getFloat32(at, true);
      case 'float64':
        return view.getFloat64(at, true);
      case 'bool': {
        const byte = view.getUint8(at);
        if (byte > 1) throw this.corrupt(what, `expected 0 or 1 for a bool, got ${byte}`);
        return byte === 1;
      }
      case 'uint64':
        return exact(view.getBigUint64(at, true));
      case 'int64':
        return exact(view.getBigInt64(at, true));
    }
  }
}

function exact(value: bigint): number | bigint {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}
