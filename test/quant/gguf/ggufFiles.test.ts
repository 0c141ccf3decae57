import {mkdtempSync, rmSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import type {Folder} from '../../../quant/folders/folder.ts';
import {MemoryFolder} from '../../../quant/folders/memoryFolder.ts';
import {ggmlType} from '../../../quant/gguf/ggmlTypes.ts';
import {GgufFiles, ggufParts} from '../../../quant/gguf/ggufFiles.ts';
import type {GgufValue} from '../../../quant/gguf/ggufValue.ts';
import {type GgufTensor, ggufFile} from '../../../quant/gguf/writeGguf.ts';

/** A file piece by piece, so that each can be made wrong. */
class Bytes {
  private readonly parts: Buffer[] = [];

  raw(...bytes: number[]): this {
    this.parts.push(Buffer.from(bytes));
    return this;
  }

  u32(value: number): this {
    const bytes = Buffer.alloc(4);
    bytes.writeUInt32LE(value);
    this.parts.push(bytes);
    return this;
  }

  u64(value: bigint | number): this {
    const bytes = Buffer.alloc(8);
    bytes.writeBigUInt64LE(BigInt(value));
    this.parts.push(bytes);
    return this;
  }

  text(value: string): this {
    this.u64(Buffer.byteLength(value)).parts.push(Buffer.from(value));
    return this;
  }

  head(tensors: number | bigint, keys: number | bigint, version = 3): this {
    this.parts.push(Buffer.from('GGUF'));
    return this.u32(version).u64(tensors).u64(keys);
  }

  tensor(name: string, sizes: (number | bigint)[], type: number, offset: number | bigint): this {
    this.text(name).u32(sizes.length);
    for (const size of sizes) this.u64(size);
    return this.u32(type).u64(offset);
  }

  data(length: number): this {
    const size = this.parts.reduce((sum, part) => sum + part.length, 0);
    this.parts.push(Buffer.alloc(Math.ceil(size / 32) * 32 - size + length));
    return this;
  }

  get file(): Buffer {
    return Buffer.concat(this.parts);
  }
}
const bytes = () => new Bytes();

const open = (file: Uint8Array) =>
  GgufFiles.open(new Map([['model.gguf', new Blob([file as Uint8Array<ArrayBuffer>])]]), 'model.gguf');

describe('GgufFiles', () => {
  it('reads every type of value exactly', async () => {
    const metadata = new Map<string, GgufValue>([
      ['u8', {type: 'uint8', value: 255}],
      ['i8', {type: 'int8', value: -128}],
      ['u16', {type: 'uint16', value: 65535}],
      ['i16', {type: 'int16', value: -32768}],
      ['u32', {type: 'uint32', value: 4294967295}],
      ['i32', {type: 'int32', value: -2147483648}],
      ['f32', {type: 'float32', value: Math.fround(0.1)}],
      ['yes', {type: 'bool', value: true}],
      ['text', {type: 'string', value: 'größe 😀'}],
      ['u64', {type: 'uint64', value: 2 ** 53 - 1}],
      ['large', {type: 'uint64', value: 2n ** 64n - 1n}],
      ['i64', {type: 'int64', value: -(2n ** 63n)}],
      ['f64', {type: 'float64', value: 0.1}],
      ['texts', {type: 'array', items: {type: 'string', values: ['', 'a']}}],
      ['none', {type: 'array', items: {type: 'int32', values: []}}],
      [
        'nested',
        {
          type: 'array',
          items: {
            type: 'array',
            values: [
              {type: 'uint8', values: [1, 2]},
              {type: 'bool', values: []},
            ],
          },
        },
      ],
    ]);
    const files = await open(await written(metadata, []));
    expect(new Map(files.metadata)).toEqual(metadata);
    files.close();
  });

  it.each([2, 3])('reads version %i and the alignment that the file names', async (version) => {
    const file = bytes().head(1, 1, version).text('general.alignment').u32(4).u32(64).tensor('x', [2], 0, 0);
    const data = Buffer.alloc(64);
    data.writeFloatLE(1.5, 4);
    const padding = Buffer.alloc(64 - (file.file.length % 64));
    const files = await open(Buffer.concat([file.file, padding, data]));
    expect(files.files[0].version).toBe(version);
    expect([...(await files.loadFloat32('x'))]).toEqual([0, 1.5]);
  });

  it('lists shapes with rows last, and reads tensors of any folder', async () => {
    const file = await written(new Map(), [tensor('m', [2, 32], 'Q8_0'), tensor('v', [3], 'F32')]);
    const folder = mkdtempSync(join(tmpdir(), 'tfjs-lora-'));
    try {
      writeFileSync(join(folder, 'model.gguf'), file);
      const whole: Folder = new MemoryFolder(
        new Map([['model.gguf', new Blob([file as Buffer<ArrayBuffer>])]]),
      );
      Object.assign(whole, {openBytes: undefined}); // a folder of a caller's own
      for (const source of [folder, whole]) {
        const files = await GgufFiles.open(source, 'model.gguf');
        expect(files.tensors.get('m')).toEqual({type: ggmlType('Q8_0'), shape: [2, 32], begin: 0, end: 68});
        expect(await files.loadFloat32('m')).toHaveLength(64);
        expect(await files.load('v')).toHaveLength(12);
        expect(() => files.fileOf('w')).toThrow('expected it in the file, got no such name. Nearest:');
        files.close();
        await expect(files.load('v')).rejects.toThrow('expected an open file, got one that was closed');
      }
    } finally {
      rmSync(folder, {recursive: true});
    }
  });

  it('reads the parts of a split model as one', async () => {
    const part = (no: number, name: string) =>
      written(
        new Map<string, GgufValue>([
          ['split.no', {type: 'uint16', value: no}],
          ['split.count', {type: 'uint16', value: 2}],
        ]),
        [tensor(name, [2], 'F32')],
      );
    expect(ggufParts('m-00001-of-00000.gguf')).toEqual(['m-00001-of-00000.gguf']);
    const names = ggufParts('m-00002-of-00002.gguf');
    expect(names).toEqual(['m-00001-of-00002.gguf', 'm-00002-of-00002.gguf']);
    const blobs = await Promise.all(
      [part(0, 'a'), part(1, 'b')].map(async (file) => new Blob([(await file) as Buffer<ArrayBuffer>])),
    );
    const parts = new Map(names.map((name, i) => [name, blobs[i]]));
    const files = await GgufFiles.open(parts, names[0]);
    expect([...files.tensors.keys()]).toEqual(['a', 'b']);
    expect(await files.loadFloat32('b')).toHaveLength(2);

    const swapped = new Map(names.map((name, i) => [name, blobs[1 - i]]));
    await expect(GgufFiles.open(swapped, names[0])).rejects.toThrow(
      'expected part 1 of 2, as its name says, got part 2 of 2',
    );
    parts.delete(names[1]);
    await expect(GgufFiles.open(parts, names[0])).rejects.toThrow(
      'GGUF file [m-00002-of-00002.gguf]: expected a readable file, got none of that name.',
    );
    await expect(open(await part(0, 'a'))).rejects.toThrow(
      'expected part 1 of 1, as its name says, got part 1 of 2',
    );
  });

  const key = (name = 'k') => bytes().head(0, 1).text(name);
  it.each<[string, Bytes, string, string]>([
    [
      'another format',
      bytes().raw(80, 75, 3, 4).data(32),
      'CORRUPT_FILE',
      'expected it to begin with GGUF, got "PK',
    ],
    ['a short file', bytes().raw(71, 71), 'CORRUPT_FILE', 'expected it to end by byte 2'],
    ['version 1', bytes().head(0, 0, 1), 'UNSUPPORTED', 'of version 2 or 3, got version 1'],
    ['big-endian bytes', bytes().head(0, 0, 0x03000000), 'UNSUPPORTED', 'got a big-endian one'],
    [
      'too many tensors',
      bytes().head(2n ** 60n, 0),
      'CORRUPT_FILE',
      'tensor count [model.gguf]: expected a number below',
    ],
    [
      'too many keys',
      bytes().head(0, 1000),
      'CORRUPT_FILE',
      'metadata count [model.gguf]: expected at most 0 in a file',
    ],
    [
      'a long text',
      key().u32(8).u64(1e9),
      'CORRUPT_FILE',
      'metadata "k" length [model.gguf]: expected at most 0',
    ],
    [
      'a long list',
      key().u32(9).u32(0).u64(1e9),
      'CORRUPT_FILE',
      'metadata "k" length [model.gguf]: expected at most 0',
    ],
    [
      'an unknown type',
      key().u32(13).u64(0),
      'CORRUPT_FILE',
      'metadata "k" [model.gguf]: expected a type from 0 to 12',
    ],
    ['a wrong bool', key().u32(7).raw(2), 'CORRUPT_FILE', 'expected 0 or 1 for a bool, got 2'],
    ['other bytes', key().u32(8).u64(1).raw(0xff), 'CORRUPT_FILE', 'expected UTF-8 text, got 0xff'],
    [
      'a key twice',
      bytes().head(0, 2).text('k').u32(0).raw(1).text('k').u32(0).raw(1),
      'CORRUPT_FILE',
      'metadata "k" [model.gguf]: expected each key once, got it twice',
    ],
    [
      'deep lists',
      key().u32(9).u32(9).u64(1).u32(9).u64(1).u32(9).u64(1).u32(9).u64(1).u32(0).u64(0),
      'CORRUPT_FILE',
      'expected at most 4 arrays in one another',
    ],
    [
      'an odd alignment',
      bytes().head(0, 1).text('general.alignment').u32(4).u32(24),
      'CORRUPT_FILE',
      'general.alignment [model.gguf]: expected a power of two',
    ],
    [
      'many dimensions',
      bytes().head(1, 0).tensor('x', [1, 1, 1, 1, 1], 0, 0).data(32),
      'CORRUPT_FILE',
      'tensor "x" [model.gguf]: expected at most 4 dimensions, got 5',
    ],
    [
      'sizes without end',
      bytes()
        .head(1, 0)
        .tensor('x', [2n ** 40n, 2n ** 40n], 0, 0)
        .data(32),
      'CORRUPT_FILE',
      'expected fewer than 2^53 values',
    ],
    [
      'part of a block',
      bytes().head(1, 0).tensor('x', [33], 8, 0).data(64),
      'CORRUPT_FILE',
      'expected rows of whole Q8_0 blocks of 32, got 33 values',
    ],
    [
      'an unknown GGML type',
      bytes().head(1, 0).tensor('x', [32], 99, 0).data(64),
      'UNSUPPORTED',
      'tensor "x" [model.gguf]: expected a GGML type that gguf 0.19 knows, got number 99',
    ],
    [
      'a tensor twice',
      bytes().head(2, 0).tensor('x', [1], 0, 0).tensor('x', [1], 0, 32).data(64),
      'CORRUPT_FILE',
      'tensor "x" [model.gguf]: expected each name once, got it twice',
    ],
    [
      'tensors that overlap',
      bytes().head(2, 0).tensor('x', [9], 0, 0).tensor('y', [1], 0, 32).data(64),
      'CORRUPT_FILE',
      'tensor "y" [model.gguf]: expected it to start at 64, got 32',
    ],
    [
      'a file cut short',
      bytes().head(1, 0).tensor('x', [9], 0, 0).data(35),
      'CORRUPT_FILE',
      'tensor "x" [model.gguf]: expected 36 bytes of data, got 35: the file is cut short',
    ],
  ])('refuses %s', async (_, {file}, code, message) => {
    await expect(open(file)).rejects.toMatchObject({code, message: expect.stringContaining(message)});
  });

  it('refuses to decode a type that is only recognized', async () => {
    const files = await open(bytes().head(1, 0).tensor('x', [32], 39, 0).data(17).file);
    await expect(files.loadFloat32('x')).rejects.toThrow('got MXFP4');
    expect(await files.load('x')).toHaveLength(17);
  });
});

const tensor = (name: string, shape: number[], type: string): GgufTensor => {
  const layout = ggmlType(type);
  const blocks = shape.reduce((product, size) => product * size, 1) / layout.valuesPerBlock;
  return {name, type: layout, shape, data: () => new Uint8Array(blocks * layout.bytesPerBlock)};
};

async function written(metadata: Map<string, GgufValue>, tensors: GgufTensor[]): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  for await (const piece of ggufFile(metadata, tensors, 'model.gguf').pieces()) parts.push(piece);
  return Buffer.concat(parts);
}
