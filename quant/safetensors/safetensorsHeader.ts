import {TfjsLoraError} from '../errors.ts';
import {parseStrictJson} from '../parseJson.ts';
import {show} from '../show.ts';
import {corruptFile} from './corruptFile.ts';
import {
  byteLengthOf,
  compareDtypes,
  isCount,
  isSafetensorsDtype,
  type SafetensorsDtype,
  safetensorsDtypes,
  shapeFault,
} from './safetensorsDtype.ts';

/** A tensor's position in its file, and how to read it. */
export interface TensorInfo {
  readonly dtype: SafetensorsDtype;
  /** Empty for a scalar. */
  readonly shape: readonly number[];
  /** Bytes from the start of the file's data, as in `data_offsets`: the tensor is `[begin, end)`. */
  readonly begin: number;
  readonly end: number;
}

/** The part before the data: the free-form `__metadata__`, and the tensors in the order of their bytes. */
export interface SafetensorsHeader {
  readonly metadata: Readonly<Record<string, string>>;
  readonly tensors: ReadonlyMap<string, TensorInfo>;
}

/** The reference library's limit for a header, in bytes. */
export const MAX_HEADER_BYTES = 100_000_000;

const METADATA_KEY = '__metadata__';

/**
 * Parses and checks a header: a JSON object without duplicate keys, known dtypes, whole shapes, and tensors that
 * cover the file's data exactly: no overlap, no hole, nothing past its end.
 *
 * @param bytes the JSON text, without the 8 bytes of length before it
 * @param dataBytes bytes in the file after the header
 * @param path the file, for messages
 * @throws TfjsLoraError `CORRUPT_FILE` naming the file and the key
 */
export function parseHeader(bytes: Uint8Array, dataBytes: number, path: string): SafetensorsHeader {
  const entries = parseHeaderObject(bytes, path);
  const metadata = parseMetadata(entries[METADATA_KEY], path);
  const tensors = Object.keys(entries)
    .filter((name) => name !== METADATA_KEY)
    .map((name): [string, TensorInfo] => [name, parseTensorInfo(name, entries[name], path)])
    .sort(([, a], [, b]) => a.begin - b.begin || a.end - b.end);
  assertCovers(tensors, dataBytes, path);
  return {metadata, tensors: new Map(tensors)};
}

function parseHeaderObject(bytes: Uint8Array, path: string): Record<string, unknown> {
  let text: string;
  try {
    text = new TextDecoder('utf-8', {fatal: true, ignoreBOM: true}).decode(bytes);
  } catch (cause) {
    throw corruptFile('safetensors header', path, 'expected UTF-8 text, got other bytes', undefined, {cause});
  }
  if (!text.startsWith('{')) {
    throw corruptFile('safetensors header', path, `expected a JSON object, got ${show(text.slice(0, 20))}`);
  }
  try {
    return parseStrictJson(text) as Record<string, unknown>;
  } catch (cause) {
    const fault = `expected valid JSON, got ${(cause as Error).message}`;
    throw corruptFile('safetensors header', path, fault, undefined, {cause});
  }
}

function parseMetadata(value: unknown, path: string): Record<string, string> {
  if (value === undefined || value === null) return {}; // the reference library reads null as no metadata
  if (!isObject(value)) {
    throw corruptFile(METADATA_KEY, path, `expected an object of strings, got ${show(value)}`);
  }
  for (const [key, text] of Object.entries(value)) {
    if (typeof text !== 'string') {
      throw corruptFile(`${METADATA_KEY} ${show(key)}`, path, `expected a string, got ${show(text)}`);
    }
  }
  return value as Record<string, string>;
}

function parseTensorInfo(name: string, entry: unknown, path: string): TensorInfo {
  const corrupt = (fault: string) => corruptFile(`Tensor ${show(name)}`, path, fault);
  if (/\p{Surrogate}/u.test(name)) {
    throw corrupt('expected a name of whole Unicode characters, got half of a pair');
  }
  if (!isObject(entry)) {
    throw corrupt(`expected {dtype, shape, data_offsets}, got ${show(entry)}`);
  }
  const {dtype, shape, data_offsets: offsets} = entry;
  if (!isSafetensorsDtype(dtype)) {
    throw corrupt(`expected dtype to be one of ${safetensorsDtypes()}, got ${show(dtype)}`);
  }
  const fault = shapeFault(dtype, shape);
  if (fault !== undefined) throw corrupt(fault);
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isCount)) {
    throw corrupt(`expected data_offsets to be [begin, end], got ${show(offsets)}`);
  }
  const [begin, end] = offsets as [number, number];
  if (begin > end) throw corrupt(`expected data_offsets in order, got [${begin}, ${end}]`);
  const sizes = shape as number[];
  const expected = byteLengthOf(dtype, sizes);
  if (end - begin !== expected) {
    const got = `data_offsets [${begin}, ${end}], ${end - begin} bytes`;
    throw corrupt(`expected ${expected} bytes for ${dtype} [${sizes}], got ${got}`);
  }
  return {dtype, shape: sizes, begin, end};
}

/** @param tensors sorted by their bytes */
function assertCovers(tensors: readonly [string, TensorInfo][], dataBytes: number, path: string): void {
  let covered = 0;
  let previous = '';
  for (const [name, {begin, end}] of tensors) {
    const corrupt = (fault: string) => corruptFile(`Tensor ${show(name)}`, path, fault);
    if (begin < covered) {
      const fault = `expected its bytes to start at ${covered}, after tensor ${show(previous)}, got ${begin}`;
      throw corrupt(`${fault}: the two overlap`);
    }
    if (begin > covered) {
      const fault = `expected its bytes to start at ${covered}, got ${begin}: bytes between belong to no tensor`;
      throw corrupt(fault);
    }
    if (end > dataBytes) {
      throw corrupt(`expected ${end} bytes of data, got ${dataBytes}: the file is cut short`);
    }
    covered = end;
    previous = name;
  }
  if (covered !== dataBytes) {
    const fault = `expected ${covered} bytes of data, got ${dataBytes}: the last ones belong to no tensor`;
    throw corruptFile('safetensors data', path, fault);
  }
}

/** A tensor's name, dtype and shape, which are all that a header needs. */
export interface TensorSpec {
  readonly name: string;
  readonly dtype: SafetensorsDtype;
  readonly shape: readonly number[];
}

/**
 * Builds the bytes before the data, length included, and sorts the tensors into the order of their bytes: by dtype, the
 * widest first, then by name. For the same tensors and at most one metadata entry, Python's safetensors writes the same
 * bytes (it orders several metadata entries at random).
 *
 * @param metadata written as `__metadata__`; none when empty
 * @param path the file, for messages
 * @throws TfjsLoraError `INVALID_ARGUMENT` naming the tensor when a name occurs twice or the format forbids it, or when
 *   a dtype, shape or metadata entry is invalid
 */
export function buildHeader<Spec extends TensorSpec>(
  tensors: Iterable<Spec>,
  metadata: Readonly<Record<string, string>>,
  path: string,
): {bytes: Uint8Array; ordered: Spec[]} {
  const ordered = [...tensors];
  assertWritable(ordered, metadata, path);
  ordered.sort((a, b) => compareDtypes(a.dtype, b.dtype) || compareByCodePoint(a.name, b.name));

  // Written entry by entry, since an object would move names that look like numbers to the front.
  const pieces: string[] = [];
  const piece = (key: string, value: unknown) => `${JSON.stringify(key)}:${JSON.stringify(value)}`;
  if (Object.keys(metadata).length > 0) pieces.push(piece(METADATA_KEY, metadata));
  let begin = 0;
  for (const {name, dtype, shape} of ordered) {
    const end = begin + byteLengthOf(dtype, shape);
    pieces.push(piece(name, {dtype, shape, data_offsets: [begin, end]}));
    begin = end;
  }
  const json = new TextEncoder().encode(`{${pieces.join(',')}}`);
  const paddedLength = Math.ceil(json.length / 8) * 8; // so that the data starts aligned
  if (paddedLength > MAX_HEADER_BYTES) {
    const got = `${paddedLength} for ${ordered.length} tensors`;
    throw invalid(
      `header [${path}]: expected at most ${MAX_HEADER_BYTES} bytes, got ${got}. Write several files.`,
    );
  }
  const bytes = new Uint8Array(8 + paddedLength).fill(0x20);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(paddedLength), true);
  bytes.set(json, 8);
  return {bytes, ordered};
}

function assertWritable(
  tensors: readonly TensorSpec[],
  metadata: Readonly<Record<string, string>>,
  path: string,
): void {
  const names = new Set<string>();
  for (const {name, dtype, shape} of tensors) {
    const where = `tensor ${show(name)} [${path}]`;
    if (typeof name !== 'string' || name === METADATA_KEY || /\p{Surrogate}/u.test(name)) {
      throw invalid(`${where}: expected a name of whole Unicode characters other than ${METADATA_KEY}.`);
    }
    if (names.has(name)) throw invalid(`${where}: expected each name once, got it twice.`);
    names.add(name);
    if (!isSafetensorsDtype(dtype)) {
      throw invalid(`${where}: expected dtype to be one of ${safetensorsDtypes()}, got ${show(dtype)}.`);
    }
    const fault = shapeFault(dtype, shape);
    if (fault !== undefined) throw invalid(`${where}: ${fault}.`);
  }
  for (const [key, value] of Object.entries(metadata)) {
    if (typeof value !== 'string' || /\p{Surrogate}/u.test(key + value)) {
      throw invalid(`${METADATA_KEY} ${show(key)} [${path}]: expected a string, got ${show(value)}.`);
    }
  }
}

function invalid(rest: string): TfjsLoraError {
  return new TfjsLoraError('INVALID_ARGUMENT', `Cannot write ${rest}`);
}

/** Compares by code point, as Python and Rust sort strings; JavaScript's `<` compares by UTF-16 unit. */
export function compareByCodePoint(a: string, b: string): number {
  const [left, right] = [[...a], [...b]].map((text) => text.map((character) => character.codePointAt(0)!));
  const at = left.findIndex((point, i) => point !== right[i]);
  return at === -1 ? left.length - right.length : left[at] - (right[at] ?? -1);
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
