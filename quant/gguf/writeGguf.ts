import {TfjsLoraError} from '../errors.ts';
import {show} from '../show.ts';
import type {GgmlLayout} from './ggmlType.ts';
import {ggmlByteLength} from './ggmlType.ts';
import {
  GGUF_ALIGNMENT,
  GGUF_VALUE_TYPES,
  type GgufArray,
  type GgufScalar,
  type GgufValue,
  type GgufValueType,
} from './ggufValue.ts';

/** The version of the format that is written. */
const VERSION = 3;
/** The longest name of a tensor that llama.cpp reads (`GGML_MAX_NAME`, which counts the final zero). */
const MAX_NAME_BYTES = 63;

/** A tensor to write into a GGUF file. */
export interface GgufTensor {
  readonly name: string;
  readonly type: GgmlLayout;
  /** Shape as PyTorch writes it, `[rows, columns]`. A row consists of whole blocks. */
  readonly shape: readonly number[];
  /** Returns the encoded rows. It is called once, in its turn, and its result is dropped before the next is called. */
  readonly data: () => ArrayBufferView | Promise<ArrayBufferView>;
}

/** A GGUF file to write: its size is known before the first tensor is read. */
export interface GgufFile {
  /** Bytes of the whole file. */
  readonly byteLength: number;
  /** Yields the file's bytes: the header, then each tensor. */
  pieces(): AsyncGenerator<Uint8Array, void, undefined>;
}

/**
 * Prepares a GGUF file (version 3, little-endian) as PyPI's `gguf` writes it. Memory is bounded by the header and one
 * tensor.
 *
 * @param path the file, for messages
 * @throws TfjsLoraError `INVALID_ARGUMENT` for a name that llama.cpp does not read or that occurs twice;
 *   `SHAPE_MISMATCH` for rows that are not whole blocks, and while writing, for data that lacks bytes
 */
export function ggufFile(
  metadata: ReadonlyMap<string, GgufValue>,
  tensors: readonly GgufTensor[],
  path: string,
): GgufFile {
  const header = headerOf(metadata, tensors, path);
  const sizes = tensors.map(byteLengthOf);
  const pieces = async function* () {
    yield header;
    for (const [i, tensor] of tensors.entries()) {
      const view = await tensor.data();
      if (view.byteLength !== sizes[i]) {
        throw new TfjsLoraError(
          'SHAPE_MISMATCH',
          `tensor ${tensor.name} [${path}]: expected ${sizes[i]} bytes for ${tensor.type.name} [${tensor.shape}], ` +
            `got ${view.byteLength}`,
        );
      }
      yield new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
      if (aligned(sizes[i]) > sizes[i]) yield new Uint8Array(aligned(sizes[i]) - sizes[i]);
    }
  };
  return {byteLength: sizes.reduce((sum, size) => sum + aligned(size), header.length), pieces};
}

const aligned = (bytes: number): number => Math.ceil(bytes / GGUF_ALIGNMENT) * GGUF_ALIGNMENT;

function byteLengthOf({type, shape}: GgufTensor): number {
  const columns = shape[shape.length - 1] ?? 1;
  const rows = shape.slice(0, -1).reduce((product, size) => product * size, 1);
  return rows * ggmlByteLength(type, columns);
}

function headerOf(
  metadata: ReadonlyMap<string, GgufValue>,
  tensors: readonly GgufTensor[],
  path: string,
): Uint8Array {
  const out = new ByteList();
  out.bytes(new TextEncoder().encode('GGUF'));
  out.number('uint32', VERSION);
  out.number('uint64', tensors.length);
  out.number('uint64', metadata.size);
  for (const [key, value] of metadata) {
    out.text(key);
    out.number('uint32', numberOf(value.type));
    out.value(value);
  }
  let offset = 0;
  const names = new Set<string>();
  for (const tensor of tensors) {
    assertName(tensor.name, names, path);
    out.text(tensor.name);
    out.number('uint32', tensor.shape.length);
    for (const size of [...tensor.shape].reverse()) out.number('uint64', size);
    out.number('uint32', tensor.type.id);
    out.number('uint64', offset);
    offset += aligned(byteLengthOf(tensor));
  }
  return out.padded(GGUF_ALIGNMENT);
}

const numberOf = (type: GgufValueType): number => GGUF_VALUE_TYPES.indexOf(type);

function assertName(name: string, names: Set<string>, path: string): void {
  const bytes = new TextEncoder().encode(name).length;
  if (bytes > 0 && bytes <= MAX_NAME_BYTES && !names.has(name)) {
    names.add(name);
    return;
  }
  throw new TfjsLoraError(
    'INVALID_ARGUMENT',
    `tensor name [${path}]: expected 1 to ${MAX_NAME_BYTES} bytes that no other tensor has, got ${show(name)}`,
  );
}

/** Bytes of each type of number, and how one is written. */
const NUMBERS: Record<
  Exclude<GgufValueType, 'array' | 'bool' | 'string'>,
  readonly [bytes: number, put: (view: DataView, at: number, value: number) => void]
> = {
  uint8: [1, (view, at, value) => view.setUint8(at, value)],
  int8: [1, (view, at, value) => view.setInt8(at, value)],
  uint16: [2, (view, at, value) => view.setUint16(at, value, true)],
  int16: [2, (view, at, value) => view.setInt16(at, value, true)],
  uint32: [4, (view, at, value) => view.setUint32(at, value, true)],
  int32: [4, (view, at, value) => view.setInt32(at, value, true)],
  float32: [4, (view, at, value) => view.setFloat32(at, value, true)],
  uint64: [8, (view, at, value) => view.setBigUint64(at, BigInt(value), true)],
  int64: [8, (view, at, value) => view.setBigInt64(at, BigInt(value), true)],
  float64: [8, (view, at, value) => view.setFloat64(at, value, true)],
};

/** Bytes that grow at their end, little-endian. */
class ByteList {
  private all = new Uint8Array(1 << 12);
  private view = new DataView(this.all.buffer);
  private length = 0;

  bytes(bytes: Uint8Array): void {
    const at = this.grow(bytes.length);
    this.all.set(bytes, at);
  }

  text(text: string): void {
    const bytes = new TextEncoder().encode(text);
    this.number('uint64', bytes.length);
    this.bytes(bytes);
  }

  number(type: keyof typeof NUMBERS, value: number): void {
    const [bytes, put] = NUMBERS[type];
    const at = this.grow(bytes);
    put(this.view, at, value);
  }

  value(value: GgufValue): void {
    if (value.type === 'array') this.array(value.items);
    else this.scalar(value.type, value.value);
  }

  private array({type, values}: GgufArray): void {
    this.number('uint32', numberOf(type));
    this.number('uint64', values.length);
    if (type === 'array') for (const each of values) this.array(each);
    else for (const each of values) this.scalar(type, each);
  }

  private scalar(type: Exclude<GgufValueType, 'array'>, value: GgufScalar): void {
    if (type === 'string') this.text(value as string);
    else if (type === 'bool') this.number('uint8', Number(value));
    else this.number(type, value as number);
  }

  padded(alignment: number): Uint8Array {
    this.grow(Math.ceil(this.length / alignment) * alignment - this.length);
    return this.all.slice(0, this.length);
  }

  /** Makes room for more bytes and returns the place of the first. */
  private grow(bytes: number): number {
    const at = this.length;
    this.length += bytes;
    if (this.length > this.all.length) {
      const larger = new Uint8Array(Math.max(this.length, 2 * this.all.length));
      larger.set(this.all);
      [this.all, this.view] = [larger, new DataView(larger.buffer)];
    }
    return at;
  }
}
