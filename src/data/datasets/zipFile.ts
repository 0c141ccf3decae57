import {createReadStream, createWriteStream} from 'node:fs';
import {type FileHandle, open} from 'node:fs/promises';
import {dirname} from 'node:path';
import {Transform} from 'node:stream';
import {pipeline} from 'node:stream/promises';
import {createInflateRaw} from 'node:zlib';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {makeFolder} from '../../../quant/safetensors/makeFolder.ts';
import {assertRepositoryPath} from '../hub/repositoryPath.ts';

const [STORED, DEFLATED] = [0, 8];
const END_SIGNATURE = 0x06054b50;
const ENTRY_SIGNATURE = 0x02014b50;
const LOCAL_SIGNATURE = 0x04034b50;
/** Size of the end record without its comment, and of the longest comment. */
const [END_BYTES, MAX_COMMENT] = [22, 0xffff];

interface Entry {
  method: number;
  compressedBytes: number;
  /** Offset of the local header in bytes. */
  offset: number;
}

/** A zip archive of less than 4 GiB on disk, such as a Python wheel, whose members can be unpacked one by one. */
export class ZipFile {
  private constructor(
    private readonly path: string,
    private readonly handle: FileHandle,
    private readonly entries: Map<string, Entry>,
  ) {}

  /**
   * Opens an archive and reads its directory.
   *
   * @throws TfjsLoraError `CORRUPT_FILE` when it is not a zip archive
   */
  static async open(path: string): Promise<ZipFile> {
    const handle = await open(path);
    try {
      return new ZipFile(path, handle, await readDirectory(path, handle));
    } catch (error) {
      await handle.close();
      throw error;
    }
  }

  get names(): string[] {
    return [...this.entries.keys()];
  }

  /**
   * Unpacks one member into a file, and makes the file's folders.
   *
   * @throws TfjsLoraError `CORRUPT_FILE` when there is no such member, or its name could lead out of a folder
   */
  async extract(name: string, to: string): Promise<void> {
    assertRepositoryPath(name, `${this.path} member`);
    makeFolder(dirname(to));
    await pipeline(await this.stream(name), createWriteStream(to));
  }

  async text(name: string): Promise<string> {
    const pieces: Buffer[] = [];
    for await (const piece of await this.stream(name)) pieces.push(piece as Buffer);
    return Buffer.concat(pieces).toString('utf8');
  }

  close(): Promise<void> {
    return this.handle.close();
  }

  private async stream(name: string): Promise<Transform> {
    const entry = this.entries.get(name);
    if (!entry) throw corrupt(this.path, `a member ${name}`, 'none');
    const {method, compressedBytes, offset} = entry;
    const header = Buffer.alloc(30);
    await this.handle.read(header, 0, 30, offset);
    if (header.readUInt32LE(0) !== LOCAL_SIGNATURE || (method !== STORED && method !== DEFLATED)) {
      throw corrupt(this.path, `member ${name} stored or deflated`, `method ${method}`);
    }
    const start = offset + 30 + header.readUInt16LE(26) + header.readUInt16LE(28); // after the name and the extra field
    const passThrough = () => new Transform({transform: (piece, _, done) => done(null, piece)});
    const target = method === DEFLATED ? createInflateRaw() : passThrough();
    if (compressedBytes === 0) return target.end();
    const end = start + compressedBytes - 1;
    const source = createReadStream(this.path, {start, end, highWaterMark: 1 << 20});
    source.once('error', (error) => target.destroy(error));
    return source.pipe(target);
  }
}

async function readDirectory(path: string, handle: FileHandle): Promise<Map<string, Entry>> {
  const {size} = await handle.stat();
  const tail = Buffer.alloc(Math.min(size, END_BYTES + MAX_COMMENT));
  await handle.read(tail, 0, tail.length, size - tail.length);
  let end = tail.length - END_BYTES;
  while (end >= 0 && tail.readUInt32LE(end) !== END_SIGNATURE) end--;
  if (end < 0) throw corrupt(path, 'a zip archive', 'no directory at its end');
  const length = tail.readUInt32LE(end + 12);
  if (length > size) throw corrupt(path, 'a zip directory', `${length} bytes of it in a file of ${size}`);
  const directory = Buffer.alloc(length);
  await handle.read(directory, 0, directory.length, tail.readUInt32LE(end + 16));
  const entries = new Map<string, Entry>();
  for (let at = 0; at + 46 <= directory.length; ) {
    if (directory.readUInt32LE(at) !== ENTRY_SIGNATURE) throw corrupt(path, 'a zip directory', 'other bytes');
    const [nameBytes, extraBytes, commentBytes] = [28, 30, 32].map((field) =>
      directory.readUInt16LE(at + field),
    );
    entries.set(directory.toString('utf8', at + 46, at + 46 + nameBytes), {
      method: directory.readUInt16LE(at + 10),
      compressedBytes: directory.readUInt32LE(at + 20),
      offset: directory.readUInt32LE(at + 42),
    });
    at += 46 + nameBytes + extraBytes + commentBytes;
  }
  return entries;
}

function corrupt(path: string, expected: string, got: string): TfjsLoraError {
  return new TfjsLoraError('CORRUPT_FILE', `${path}: expected ${expected}, got ${got}. Download it again.`);
}
