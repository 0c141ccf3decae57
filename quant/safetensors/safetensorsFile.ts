import {constants} from 'node:buffer';
import * as fs from 'node:fs';
import {nearestNames, TfjsLoraError} from '../errors.ts';
import {corruptFile} from './corruptFile.ts';
import {describe} from './safetensorsDtype.ts';
import {MAX_HEADER_BYTES, parseHeader, type SafetensorsHeader, type TensorInfo} from './safetensorsHeader.ts';
import {toFloat32} from './toFloat32.ts';

/** One `read` call moves at most this much: the system refuses 2 GiB and more at once. */
const READ_SLICE_BYTES = 1 << 30;

/**
 * One safetensors file, opened and checked, read tensor by tensor through its file descriptor: files and tensors may
 * be larger than 2 GiB, and nothing but the tensor that is asked for enters memory.
 *
 * ```ts
 * const file = SafetensorsFile.open('model.safetensors');
 * for (const [name, {dtype, shape}] of file.tensors) console.log(name, dtype, shape);
 * const weight = file.readFloat32('model.norm.weight');
 * file.close();
 * ```
 */
export class SafetensorsFile {
  readonly path: string;
  /** The file's free-form `__metadata__`; empty when it has none. */
  readonly metadata: Readonly<Record<string, string>>;
  /** Every tensor, in the order of their bytes. */
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  private readonly dataStart: number;
  private descriptor: number | undefined;

  private constructor(
    path: string,
    descriptor: number,
    {metadata, tensors}: SafetensorsHeader,
    dataStart: number,
  ) {
    this.path = path;
    this.descriptor = descriptor;
    this.metadata = metadata;
    this.tensors = tensors;
    this.dataStart = dataStart;
  }

  /**
   * Opens `path` and checks its whole header against its size, so that a file cut short is refused before any of it
   * is used. The file stays open until {@link close}.
   *
   * @throws TfjsLoraError `FILE_NOT_FOUND` when there is no such readable file; `CORRUPT_FILE` naming the file and
   *   the tensor when its header contradicts itself or the file's size
   */
  static open(path: string): SafetensorsFile {
    const descriptor = openForReading(path);
    try {
      const {size} = fs.fstatSync(descriptor);
      const headerBytes = readHeader(descriptor, size, path);
      const dataStart = 8 + headerBytes.length;
      return new SafetensorsFile(
        path,
        descriptor,
        parseHeader(headerBytes, size - dataStart, path),
        dataStart,
      );
    } catch (error) {
      fs.closeSync(descriptor);
      throw error;
    }
  }

  /** Names of all tensors, in the order of their bytes. */
  names(): string[] {
    return [...this.tensors.keys()];
  }

  has(name: string): boolean {
    return this.tensors.has(name);
  }

  /** @throws TfjsLoraError `MISSING_TENSOR` with the nearest names when the file has no tensor `name` */
  info(name: string): TensorInfo {
    const info = this.tensors.get(name);
    if (info === undefined) {
      const nearest = nearestNames(name, this.tensors.keys()).join(', ') || 'none, the file has no tensors';
      throw new TfjsLoraError(
        'MISSING_TENSOR',
        `Tensor ${describe(name)} [${this.path}]: expected it in the file, got no such name. Nearest: ${nearest}.`,
      );
    }
    return info;
  }

  /**
   * A tensor's bytes, little-endian and row-major, in memory of their own that starts aligned: the result may be
   * viewed as any typed array, `new Int32Array(bytes.buffer)`.
   *
   * @throws TfjsLoraError `MISSING_TENSOR`; `CORRUPT_FILE` when the file has shrunk since it was opened; `DISPOSED`
   *   after {@link close}; `UNSUPPORTED` when the tensor is larger than one array can be (4 GiB on Node 20)
   */
  read(name: string): Uint8Array {
    const {begin, end} = this.info(name);
    return this.readRange(name, 0, end - begin);
  }

  /**
   * Bytes `begin` to `end` of a tensor, counted from its own first byte: `read(name).subarray(begin, end)` without
   * reading the rest. The result has its own aligned memory.
   *
   * @throws TfjsLoraError as {@link read}, and `INVALID_ARGUMENT` when the range is not within the tensor
   */
  readRange(name: string, begin: number, end: number): Uint8Array {
    this.assertWithin(name, begin, end);
    if (end - begin > constants.MAX_LENGTH) {
      throw new TfjsLoraError(
        'UNSUPPORTED',
        `Tensor ${describe(name)} [${this.path}]: expected at most ${constants.MAX_LENGTH} bytes in one array, ` +
          `got ${end - begin}. Read it piece by piece with readRange.`,
      );
    }
    // Unlike Buffer.alloc, neither zeroed first nor carved from a shared pool at an unaligned offset.
    const bytes = new Uint8Array(Buffer.allocUnsafeSlow(end - begin).buffer);
    this.readInto(name, bytes, begin);
    return bytes;
  }

  /**
   * Fills `target`, any typed array, with a tensor's bytes from its byte `begin` on (default 0).
   *
   * @throws TfjsLoraError as {@link readRange}; the range is `begin` to `begin + target.byteLength`
   */
  readInto(name: string, target: ArrayBufferView, begin = 0): void {
    this.assertWithin(name, begin, begin + target.byteLength);
    if (this.descriptor === undefined) {
      throw new TfjsLoraError('DISPOSED', `${this.path}: expected an open file, got one that was closed.`);
    }
    const bytes = new Uint8Array(target.buffer, target.byteOffset, target.byteLength);
    const start = this.dataStart + this.info(name).begin + begin;
    if (readFully(this.descriptor, bytes, start) < bytes.length) {
      const fault = `expected ${bytes.length} bytes at ${start}, got fewer: the file has shrunk since it was opened`;
      throw corruptFile(`Tensor ${describe(name)}`, this.path, fault);
    }
  }

  /**
   * A whole F32, F16 or BF16 tensor as float32 values.
   *
   * @throws TfjsLoraError as {@link read}, and `UNSUPPORTED` for other dtypes
   */
  readFloat32(name: string): Float32Array {
    return toFloat32(this.read(name), this.info(name).dtype, `Tensor ${describe(name)} [${this.path}]`);
  }

  /** Closes the file; its header stays readable. Closing twice does nothing. */
  close(): void {
    if (this.descriptor === undefined) return;
    fs.closeSync(this.descriptor);
    this.descriptor = undefined;
  }

  private assertWithin(name: string, begin: number, end: number): void {
    const info = this.info(name);
    const length = info.end - info.begin;
    if (
      !Number.isSafeInteger(begin) ||
      !Number.isSafeInteger(end) ||
      begin < 0 ||
      end < begin ||
      end > length
    ) {
      throw new TfjsLoraError(
        'INVALID_ARGUMENT',
        `Tensor ${describe(name)} [${this.path}]: expected bytes within 0 to ${length}, got ${begin} to ${end}.`,
      );
    }
  }
}

function openForReading(path: string): number {
  let descriptor: number;
  try {
    descriptor = fs.openSync(path, 'r');
  } catch (cause) {
    throw notReadable(path, (cause as Error).message, {cause});
  }
  if (!fs.fstatSync(descriptor).isFile()) {
    fs.closeSync(descriptor);
    throw notReadable(path, 'a folder or device');
  }
  return descriptor;
}

function notReadable(path: string, got: string, options?: ErrorOptions): TfjsLoraError {
  const message = `safetensors file [${path}]: expected a readable file, got ${got}. Check the path.`;
  return new TfjsLoraError('FILE_NOT_FOUND', message, options);
}

/** The header's bytes, after the 8 that say how many there are. */
function readHeader(descriptor: number, size: number, path: string): Uint8Array {
  const lengthBytes = new Uint8Array(8);
  if (readFully(descriptor, lengthBytes, 0) < 8) {
    throw corruptFile('safetensors file', path, `expected at least 8 bytes, got ${size}`);
  }
  const length = new DataView(lengthBytes.buffer).getBigUint64(0, true);
  if (length === 0n || length > BigInt(MAX_HEADER_BYTES) || length > BigInt(size - 8)) {
    const limit = Math.min(MAX_HEADER_BYTES, size - 8);
    const fault = `expected a header of 1 to ${limit} bytes, got length ${length}`;
    throw corruptFile('safetensors file', path, fault, adviceForOtherFormat(lengthBytes));
  }
  const header = new Uint8Array(Number(length));
  if (readFully(descriptor, header, 8) < header.length) {
    throw corruptFile('safetensors header', path, `expected ${length} bytes, got fewer`);
  }
  return header;
}

/** What to do about a file that starts as one of the formats often found under this name; undefined for others. */
function adviceForOtherFormat(start: Uint8Array): string | undefined {
  const text = String.fromCharCode(...start);
  if (text.startsWith('version ')) return 'It is a Git LFS pointer, not the file itself: run `git lfs pull`.';
  if (text.startsWith('PK')) return 'It looks like a PyTorch or zip file: save the model as safetensors.';
  if (text.startsWith('GGUF')) return 'It is a GGUF file: use the original safetensors checkpoint.';
  if (text.startsWith('<')) return 'It looks like a web page: download the file itself.';
  return undefined;
}

/** Reads until `bytes` is full or the file ends. @returns how many bytes were read */
function readFully(descriptor: number, bytes: Uint8Array, position: number): number {
  let done = 0;
  while (done < bytes.length) {
    const length = Math.min(bytes.length - done, READ_SLICE_BYTES);
    const count = fs.readSync(descriptor, bytes, done, length, position + done);
    if (count === 0) break;
    done += count;
  }
  return done;
}
