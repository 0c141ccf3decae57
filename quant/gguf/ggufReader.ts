import {nearestNames, TfjsLoraError} from '../errors.ts';
import {corruptFile} from '../safetensors/corruptFile.ts';
import {MAX_ARRAY_BYTES} from '../safetensors/diskBytes.ts';
import type {FileBytes} from '../safetensors/fileBytes.ts';
import {show} from '../show.ts';
import {decodeGgml} from './ggmlType.ts';
import {ggmlType} from './ggmlTypes.ts';
import {type GgufHeader, type GgufTensorInfo, HeaderIsLonger, parseGgufHeader} from './ggufHeader.ts';
import type {GgufValue} from './ggufValue.ts';

/** Bytes that are read first for a header, and the most of them. A vocabulary of 262,144 tokens takes 10 MB. */
const [FIRST_READ_BYTES, MAX_HEADER_BYTES] = [1 << 20, 1e8];

/**
 * One GGUF file (version 2 or 3, little-endian), opened and checked. Only its header is in memory; tensors are read one
 * by one.
 *
 * @example
 * ```ts
 * import {GgufFiles} from 'tfjs-lora/quant';
 *
 * const file = await GgufFiles.open('models', 'SmolLM2-135M-Instruct.Q4_1.gguf');
 * console.log(file.metadata.get('general.architecture')); // {type: 'string', value: 'llama'}
 * const weight = await file.loadFloat32('blk.0.attn_q.weight'); // dequantized
 * file.close();
 * ```
 */
export class GgufReader {
  private bytes: FileBytes | undefined;

  private constructor(
    readonly path: string,
    bytes: FileBytes,
    private readonly header: GgufHeader,
  ) {
    this.bytes = bytes;
  }

  /**
   * Reads and checks a file's header.
   *
   * @param bytes the opened file, which {@link close} closes
   * @param path the file, for messages
   * @throws TfjsLoraError `CORRUPT_FILE` naming the key or tensor when the header contradicts itself or the file's size;
   *   `UNSUPPORTED` for version 1 and big-endian files
   */
  static async open(bytes: FileBytes, path: string): Promise<GgufReader> {
    try {
      return new GgufReader(path, bytes, await readHeader(bytes, path));
    } catch (error) {
      bytes.close();
      throw error;
    }
  }

  get metadata(): ReadonlyMap<string, GgufValue> {
    return this.header.metadata;
  }

  /** Every tensor, in the order of their bytes. */
  get tensors(): ReadonlyMap<string, GgufTensorInfo> {
    return this.header.tensors;
  }

  get version(): number {
    return this.header.version;
  }

  /** @throws TfjsLoraError `MISSING_TENSOR` with the nearest names when the file has no tensor `name` */
  info(name: string): GgufTensorInfo {
    const info = this.tensors.get(name);
    if (info) return info;
    const nearest = nearestNames(name, this.tensors.keys()).join(', ') || 'none, the file has no tensors';
    throw new TfjsLoraError(
      'MISSING_TENSOR',
      `Tensor ${show(name)} [${this.path}]: expected it in the file, got no such name. Nearest: ${nearest}.`,
    );
  }

  /**
   * Reads a tensor's bytes as the file stores them, into new aligned memory.
   *
   * @throws TfjsLoraError `MISSING_TENSOR`; `CORRUPT_FILE` when the file has shrunk; `DISPOSED` after {@link close};
   *   `UNSUPPORTED` for a tensor larger than one array can be
   */
  async load(name: string): Promise<Uint8Array> {
    const {begin, end} = this.info(name);
    if (!this.bytes)
      throw new TfjsLoraError('DISPOSED', `${this.path}: expected an open file, got one that was closed.`);
    const what = `Tensor ${show(name)}`;
    if (end - begin > MAX_ARRAY_BYTES) {
      throw new TfjsLoraError(
        'UNSUPPORTED',
        `${what} [${this.path}]: expected at most ${MAX_ARRAY_BYTES} bytes in one array, got ${end - begin}.`,
      );
    }
    const target = new Uint8Array(end - begin);
    if ((await this.bytes.read(target, this.header.dataStart + begin)) < target.length)
      throw corruptFile(what, this.path, `expected ${target.length} bytes, got fewer: the file has shrunk`);
    return target;
  }

  /**
   * Reads a tensor as float32, dequantized bit for bit as by PyPI's `gguf`.
   *
   * @throws TfjsLoraError as {@link load}, and `UNSUPPORTED` naming a type that is not decoded
   */
  async loadFloat32(name: string): Promise<Float32Array> {
    const type = ggmlType(this.info(name).type.id, `Tensor ${show(name)} [${this.path}]`);
    return decodeGgml(type, await this.load(name));
  }

  /** Closes the file; its header stays readable. Closing twice does nothing. */
  close(): void {
    this.bytes?.close();
    this.bytes = undefined;
  }
}

/** Reads as much of a file's beginning as its header takes, four times more at each attempt. */
async function readHeader(bytes: FileBytes, path: string): Promise<GgufHeader> {
  for (let length = FIRST_READ_BYTES; ; length *= 4) {
    const start = new Uint8Array(Math.min(length, bytes.size, MAX_HEADER_BYTES));
    if ((await bytes.read(start, 0)) < start.length)
      throw corruptFile('GGUF file', path, `expected ${bytes.size} bytes, got fewer: the file has shrunk`);
    try {
      return parseGgufHeader(start, bytes.size, path);
    } catch (error) {
      if (!(error instanceof HeaderIsLonger)) throw error;
      if (length >= MAX_HEADER_BYTES)
        throw corruptFile('GGUF header', path, `expected at most ${MAX_HEADER_BYTES} bytes, got more`);
    }
  }
}
