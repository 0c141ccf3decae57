import {nearestNames, TfjsLoraError} from '../errors.ts';
import {show} from '../show.ts';
import {blobBytes} from './blobBytes.ts';
import {corruptFile} from './corruptFile.ts';
import {diskBytes, MAX_ARRAY_BYTES} from './diskBytes.ts';
import type {FileBytes} from './fileBytes.ts';
import {MAX_HEADER_BYTES, parseHeader, type SafetensorsHeader, type TensorInfo} from './safetensorsHeader.ts';
import {toFloat32} from './toFloat32.ts';

/**
 * One safetensors file, opened and checked. Files and tensors may be larger than 2 GiB, because only the requested
 * tensor is read into memory. A file of a browser (`Blob`, `File`) is opened with {@link fromBlob} and read only with
 * {@link load}.
 *
 * @example
 * ```ts
 * import {SafetensorsFile} from 'tfjs-lora/quant';
 *
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
  private bytes: FileBytes | undefined;

  private constructor(
    path: string,
    bytes: FileBytes,
    {metadata, tensors}: SafetensorsHeader,
    dataStart: number,
  ) {
    this.path = path;
    this.bytes = bytes;
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
    const bytes = diskBytes(path);
    try {
      const steps = opening(path, bytes.size);
      let step = steps.next();
      while (!step.done) step = steps.next(bytes.readNow!(step.value.target, step.value.position));
      return new SafetensorsFile(path, bytes, ...step.value);
    } catch (error) {
      bytes.close();
      throw error;
    }
  }

  /**
   * Opens a file that is not on disk: one that a browser's user chose, or that was fetched. Its tensors are read with
   * {@link load}.
   *
   * @param name the file's name, for messages
   * @throws TfjsLoraError `CORRUPT_FILE` as {@link open}
   */
  static async fromBlob(blob: Blob, name: string): Promise<SafetensorsFile> {
    const bytes = blobBytes(blob, name);
    const steps = opening(name, bytes.size);
    let step = steps.next();
    while (!step.done) step = steps.next(await bytes.read(step.value.target, step.value.position));
    return new SafetensorsFile(name, bytes, ...step.value);
  }

  /** Returns the names of all tensors, in the order of their bytes. */
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
        `Tensor ${show(name)} [${this.path}]: expected it in the file, got no such name. Nearest: ${nearest}.`,
      );
    }
    return info;
  }

  /**
   * Reads a tensor's bytes, little-endian and row-major, into new aligned memory: the result may be viewed as any typed
   * array, `new Int32Array(bytes.buffer)`.
   *
   * @throws TfjsLoraError `MISSING_TENSOR`; `CORRUPT_FILE` when the file has shrunk since it was opened; `DISPOSED`
   *   after {@link close}; `UNSUPPORTED` when the tensor is larger than one array can be (4 GiB on Node 20), or when
   *   the file is a `Blob`
   */
  read(name: string): Uint8Array {
    const {begin, end} = this.info(name);
    return this.readRange(name, 0, end - begin);
  }

  /** Does what {@link read} does, for files on disk and others. */
  async load(name: string): Promise<Uint8Array> {
    const {begin, end} = this.info(name);
    const target = this.arrayFor(name, end - begin);
    const position = this.dataStart + begin;
    this.assertWhole(name, target, position, await this.opened().read(target, position));
    return target;
  }

  /**
   * Reads bytes `begin` to `end` of a tensor, counted from its first byte: `read(name).subarray(begin, end)` without
   * reading the rest. The result has its own aligned memory.
   *
   * @throws TfjsLoraError as {@link read}, and `INVALID_ARGUMENT` when the range is not within the tensor
   */
  readRange(name: string, begin: number, end: number): Uint8Array {
    this.assertWithin(name, begin, end);
    const bytes = this.arrayFor(name, end - begin);
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
    const {readNow} = this.opened();
    if (!readNow) {
      throw new TfjsLoraError(
        'UNSUPPORTED',
        `${this.path}: expected a file on disk, got a Blob, which cannot be read synchronously. Await load() instead.`,
      );
    }
    const bytes = new Uint8Array(target.buffer, target.byteOffset, target.byteLength);
    const position = this.dataStart + this.info(name).begin + begin;
    this.assertWhole(name, bytes, position, readNow(bytes, position));
  }

  /**
   * Reads a whole F32, F16 or BF16 tensor as float32 values.
   *
   * @throws TfjsLoraError as {@link read}, and `UNSUPPORTED` for other dtypes
   */
  readFloat32(name: string): Float32Array {
    return toFloat32(this.read(name), this.info(name).dtype, `Tensor ${show(name)} [${this.path}]`);
  }

  /** Closes the file; its header stays readable. Closing twice does nothing. */
  close(): void {
    this.bytes?.close();
    this.bytes = undefined;
  }

  private opened(): FileBytes {
    if (this.bytes) return this.bytes;
    throw new TfjsLoraError('DISPOSED', `${this.path}: expected an open file, got one that was closed.`);
  }

  private arrayFor(name: string, length: number): Uint8Array {
    if (length <= MAX_ARRAY_BYTES) return new Uint8Array(length);
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `Tensor ${show(name)} [${this.path}]: expected at most ${MAX_ARRAY_BYTES} bytes in one array, ` +
        `got ${length}. Read it piece by piece with readRange.`,
    );
  }

  private assertWhole(name: string, target: Uint8Array, position: number, count: number): void {
    if (count === target.length) return;
    const fault = `expected ${target.length} bytes at ${position}, got fewer: the file has shrunk since it was opened`;
    throw corruptFile(`Tensor ${show(name)}`, this.path, fault);
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
        `Tensor ${show(name)} [${this.path}]: expected bytes within 0 to ${length}, got ${begin} to ${end}.`,
      );
    }
  }
}

interface ReadRequest {
  target: Uint8Array;
  position: number;
}

/**
 * Reads a file's header: the 8 bytes that give its length, then the header itself. It yields each read to the caller,
 * which may wait for it or not.
 */
function* opening(
  path: string,
  size: number,
): Generator<ReadRequest, [header: SafetensorsHeader, dataStart: number], number> {
  const lengthBytes = new Uint8Array(8);
  if ((yield {target: lengthBytes, position: 0}) < 8) {
    throw corruptFile('safetensors file', path, `expected at least 8 bytes, got ${size}`);
  }
  const length = new DataView(lengthBytes.buffer).getBigUint64(0, true);
  if (length === 0n || length > BigInt(MAX_HEADER_BYTES) || length > BigInt(size - 8)) {
    const limit = Math.min(MAX_HEADER_BYTES, size - 8);
    const fault = `expected a header of 1 to ${limit} bytes, got length ${length}`;
    throw corruptFile('safetensors file', path, fault, adviceForOtherFormat(lengthBytes));
  }
  const header = new Uint8Array(Number(length));
  if ((yield {target: header, position: 8}) < header.length) {
    throw corruptFile('safetensors header', path, `expected ${length} bytes, got fewer`);
  }
  const dataStart = 8 + header.length;
  return [parseHeader(header, size - dataStart, path), dataStart];
}

/** Advises on a file that starts like a format often found under this name; undefined for other files. */
function adviceForOtherFormat(start: Uint8Array): string | undefined {
  const text = String.fromCharCode(...start);
  if (text.startsWith('version ')) return 'It is a Git LFS pointer, not the file itself: run `git lfs pull`.';
  if (text.startsWith('PK')) return 'It looks like a PyTorch or zip file: save the model as safetensors.';
  if (text.startsWith('GGUF')) return 'It is a GGUF file: name it .gguf and load it as a model.';
  if (text.startsWith('<')) return 'It looks like a web page: download the file itself.';
  return undefined;
}
