import {TfjsLoraError} from '../errors.ts';

/** A number format of GGML without its conversions: how many bytes store how many values. */
export interface GgmlLayout {
  /** The number of the type in a GGUF file. */
  readonly id: number;
  /** The name as PyPI's `gguf` spells it, such as `Q4_K`. */
  readonly name: string;
  /** Values in a block. A row of a tensor is whole blocks. */
  readonly valuesPerBlock: number;
  readonly bytesPerBlock: number;
}

/** A number format of GGML that can be decoded, and encoded if it has `encode`. */
export interface GgmlType extends GgmlLayout {
  /** Decodes whole blocks into `out`, which has exactly their values. */
  decode(bytes: Uint8Array, out: Float32Array): void;
  /** Encodes values, which fill whole blocks, into `out`, which has exactly the blocks' bytes. */
  encode?(values: Float32Array, out: Uint8Array): void;
}

/** A type given by functions that convert one block. */
export interface BlockCodec extends GgmlLayout {
  /** Decodes the block at `bytes[at]` into `out[to]` and the values after it. */
  decodeBlock(bytes: Uint8Array, at: number, out: Float32Array, to: number): void;
  /** Encodes the block of values at `values[from]` into `out[at]` and the bytes after it. */
  encodeBlock?(values: Float32Array, from: number, out: Uint8Array, at: number): void;
}

/** Makes a type from the functions that convert one of its blocks. */
export function blockType({decodeBlock, encodeBlock, ...layout}: BlockCodec): GgmlType {
  const {valuesPerBlock, bytesPerBlock} = layout;
  return {
    ...layout,
    decode(bytes, out) {
      for (let at = 0, to = 0; at < bytes.length; at += bytesPerBlock, to += valuesPerBlock)
        decodeBlock(bytes, at, out, to);
    },
    encode:
      encodeBlock &&
      ((values, out) => {
        for (let from = 0, at = 0; from < values.length; from += valuesPerBlock, at += bytesPerBlock)
          encodeBlock(values, from, out, at);
      }),
  };
}

/**
 * Returns the bytes of a number of values.
 *
 * @throws TfjsLoraError `SHAPE_MISMATCH` when the values are not whole blocks
 */
export function ggmlByteLength(type: GgmlLayout, values: number): number {
  const blocks = values / type.valuesPerBlock;
  if (!Number.isInteger(blocks)) throw notWhole(type, 'values', type.valuesPerBlock, values);
  return blocks * type.bytesPerBlock;
}

/**
 * Decodes whole blocks to float32, equal bit for bit to PyPI's `gguf` (`quants.dequantize`), except that a NaN that
 * arises here may have other bits.
 *
 * @param out receives the values; a new array by default
 * @throws TfjsLoraError `SHAPE_MISMATCH` when `bytes` are not whole blocks or `out` has another length
 */
export function decodeGgml(type: GgmlType, bytes: Uint8Array, out?: Float32Array): Float32Array {
  const blocks = bytes.length / type.bytesPerBlock;
  if (!Number.isInteger(blocks)) throw notWhole(type, 'bytes', type.bytesPerBlock, bytes.length);
  const values = out ?? new Float32Array(blocks * type.valuesPerBlock);
  assertValues(type, 'decode', values.length, blocks * type.valuesPerBlock);
  type.decode(bytes, values);
  return values;
}

/**
 * Encodes float32 values into whole blocks.
 *
 * @throws TfjsLoraError `SHAPE_MISMATCH` when the values are not whole blocks; `UNSUPPORTED` when the type has no
 *   encoder
 */
export function encodeGgml(type: GgmlType, values: Float32Array): Uint8Array {
  const out = new Uint8Array(ggmlByteLength(type, values.length));
  if (!type.encode)
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `GGML type [${type.name}]: expected a type that can be written, got one that is only read.`,
    );
  type.encode(values, out);
  return out;
}

function assertValues(type: GgmlLayout, what: string, got: number, expected: number): void {
  if (got !== expected)
    throw new TfjsLoraError(
      'SHAPE_MISMATCH',
      `${what} ${type.name} out: expected ${expected} values, got ${got}.`,
    );
}

function notWhole(type: GgmlLayout, unit: string, perBlock: number, got: number): TfjsLoraError {
  return new TfjsLoraError(
    'SHAPE_MISMATCH',
    `GGML type [${type.name}]: expected whole blocks of ${perBlock} ${unit}, got ${got}.`,
  );
}
