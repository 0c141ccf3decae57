import * as fs from 'node:fs';
import {join} from 'node:path';
import fc from 'fast-check';
import {SafetensorsFile, TfjsLoraError} from '../../../quant/index.ts';
import {fixture, golden} from '../fixtures/golden.ts';
import {rawSafetensors} from './rawSafetensors.ts';
import {temporaryFolder} from './temporaryFolder.ts';
import {thrownBy} from './thrownBy.ts';

const folder = temporaryFolder();

function fileOf(bytes: Uint8Array): string {
  const path = join(folder, 'x.safetensors');
  fs.writeFileSync(path, bytes);
  return path;
}

const hex = (bytes: ArrayBufferView) =>
  Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('hex');

/** Returns the number of descriptors that this process has open; 0 where the system does not say. */
const openFiles = () => (fs.existsSync('/proc/self/fd') ? fs.readdirSync('/proc/self/fd').length : 0);

describe.each(['torch', 'numpy'] as const)('a file written by %s', (library) => {
  const tensors = golden[library];
  let file: SafetensorsFile;
  beforeAll(() => {
    file = SafetensorsFile.open(fixture(`${library}.safetensors`));
  });
  afterAll(() => file.close());

  test('has its names and metadata', () => {
    expect(file.names().sort()).toEqual(Object.keys(tensors).sort());
    expect(file.metadata).toEqual(library === 'torch' ? {format: 'pt'} : {});
  });

  test.each(Object.entries(tensors))('reads %j as written', (name, {dtype, shape, bytes, float32}) => {
    expect(file.info(name)).toMatchObject({dtype, shape});
    const read = file.read(name);
    expect(hex(read)).toBe(bytes);
    expect(read.byteOffset % 8).toBe(0);
    if (float32 !== undefined) {
      expect(hex(file.readFloat32(name))).toBe(float32);
    } else {
      expect(() => file.readFloat32(name)).toThrow(
        new RegExp(`expected dtype F32, F16 or BF16 to read as float32, got ${dtype}`),
      );
    }
  });

  test('reads any part of a tensor, into new memory or the caller’s', () => {
    fc.assert(
      fc.property(fc.constantFrom(...Object.keys(tensors)), fc.nat(), fc.nat(), (name, a, b) => {
        const whole = file.read(name);
        const [begin, end] = [a % (whole.length + 1), b % (whole.length + 1)].sort((x, y) => x - y);
        const part = file.readRange(name, begin, end);
        expect(part).toEqual(whole.slice(begin, end));
        expect(part.byteOffset).toBe(0);
        const target = new Uint8Array(end - begin + 2).fill(7);
        file.readInto(name, target.subarray(1, -1), begin);
        expect([...target]).toEqual([7, ...part, 7]);
      }),
    );
  });
});

test('readInto fills typed arrays of any kind', () => {
  const file = SafetensorsFile.open(fixture('torch.safetensors'));
  const target = new Float32Array(6);
  file.readInto('f32', target);
  expect(hex(target)).toBe(golden.torch['f32'].float32);
  file.close();
});

test('names the nearest tensors when one is missing', async () => {
  const file = SafetensorsFile.open(fixture('torch.safetensors'));
  const error = await thrownBy(() => file.read('scalar.i46'));
  expect(error.code).toBe('MISSING_TENSOR');
  expect(error.message).toMatch(/Tensor "scalar.i46" \[.*torch.safetensors\]: .* Nearest: scalar.i64/);
  file.close();
});

test.each([
  [-1, 2],
  [2, 1],
  [0, 25],
  [0.5, 2],
  [0, Number.NaN],
])('refuses a range of %d to %d of 24 bytes', async (begin, end) => {
  const file = SafetensorsFile.open(fixture('torch.safetensors'));
  const error = await thrownBy(() => file.readRange('f32', begin, end));
  expect(error.code).toBe('INVALID_ARGUMENT');
  expect(error.message).toMatch(
    `Tensor "f32" [${file.path}]: expected bytes within 0 to 24, got ${begin} to ${end}.`,
  );
  file.close();
});

test('still lists a closed file, but does not read it', async () => {
  const file = SafetensorsFile.open(fixture('torch.safetensors'));
  file.close();
  file.close();
  expect(file.info('f32').shape).toEqual([2, 3]);
  const error = await thrownBy(() => file.read('f32'));
  expect(error.code).toBe('DISPOSED');
});

describe('open refuses', () => {
  test.each([
    ['a missing file', () => join(folder, 'none.safetensors'), 'FILE_NOT_FOUND', /none\.safetensors.*ENOENT/],
    ['a folder', () => folder, 'FILE_NOT_FOUND', /expected a readable file, got a folder/],
    ['an empty file', () => fileOf(new Uint8Array()), 'CORRUPT_FILE', /expected at least 8 bytes, got 0/],
    ['7 bytes', () => fileOf(new Uint8Array(7)), 'CORRUPT_FILE', /expected at least 8 bytes, got 7/],
    ['no header', () => fileOf(new Uint8Array(8)), 'CORRUPT_FILE', /header of 1 to 0 bytes, got length 0/],
    [
      'a header longer than the file',
      () => fileOf(rawSafetensors('{}', undefined, 3n)),
      'CORRUPT_FILE',
      /length 3/,
    ],
    [
      'a length of 2^64 - 1',
      () => fileOf(rawSafetensors('{}', undefined, 2n ** 64n - 1n)),
      'CORRUPT_FILE',
      /got length 18446744073709551615/,
    ],
    [
      'a bad header',
      () => fileOf(rawSafetensors('{"x":1}')),
      'CORRUPT_FILE',
      /Tensor "x" \[.*x\.safetensors\]/,
    ],
    [
      'a Git LFS pointer',
      () => fileOf(Buffer.from('version https://git-lfs')),
      'CORRUPT_FILE',
      /git lfs pull/,
    ],
    [
      'a zip file',
      () => fileOf(Buffer.from('PK\u0003\u0004abcdefgh')),
      'CORRUPT_FILE',
      /PyTorch or zip file/,
    ],
    ['a GGUF file', () => fileOf(Buffer.from('GGUF\u0003\0\0\0abcdefgh')), 'CORRUPT_FILE', /GGUF/],
    ['a web page', () => fileOf(Buffer.from('<!DOCTYPE html>')), 'CORRUPT_FILE', /web page/],
  ])('%s, and leaves nothing open', async (_, path, code, message) => {
    const before = openFiles();
    const error = await thrownBy(() => SafetensorsFile.open(path()));
    expect(error.code).toBe(code);
    expect(error.message).toMatch(message);
    expect(openFiles()).toBe(before);
  });

  test('a header over 100 MB, without reading it', async () => {
    const path = join(folder, 'long.safetensors');
    const descriptor = fs.openSync(path, 'w');
    fs.writeSync(descriptor, rawSafetensors('', undefined, 100_000_001n));
    fs.ftruncateSync(descriptor, 100_000_009);
    fs.closeSync(descriptor);
    const error = await thrownBy(() => SafetensorsFile.open(path));
    expect(error.message).toMatch(/header of 1 to 100000000 bytes, got length 100000001/);
  });

  test('a valid file cut anywhere, or with any byte too many', async () => {
    const bytes = fs.readFileSync(fixture('torch.safetensors'));
    for (const length of [8, 9, 100, bytes.length - 300, bytes.length - 1]) {
      expect((await thrownBy(() => SafetensorsFile.open(fileOf(bytes.subarray(0, length))))).code).toBe(
        'CORRUPT_FILE',
      );
    }
    const longer = await thrownBy(() => SafetensorsFile.open(fileOf(Buffer.concat([bytes, Buffer.of(0)]))));
    expect(longer.message).toMatch(/the last ones belong to no tensor/);
  });
});

test('opens any bytes as a file, or throws TfjsLoraError', () => {
  const valid = fs.readFileSync(fixture('torch.safetensors'));
  const flipped = fc.array(fc.tuple(fc.nat(valid.length - 1), fc.nat(255)), {maxLength: 4}).map((changes) => {
    const bytes = Uint8Array.from(valid);
    for (const [at, byte] of changes) bytes[at] = byte;
    return bytes;
  });
  const framed = fc
    .tuple(fc.uint8Array(), fc.uint8Array())
    .map(([header, data]) => rawSafetensors(header, data));
  fc.assert(
    fc.property(fc.oneof(flipped, framed, fc.uint8Array()), (bytes) => {
      try {
        const file = SafetensorsFile.open(fileOf(bytes));
        for (const [name, {begin, end}] of file.tensors) expect(file.read(name).length).toBe(end - begin);
        file.close();
      } catch (error) {
        if (!(error instanceof TfjsLoraError)) throw error;
      }
    }),
    {numRuns: 500},
  );
});

test('notices that a file shrinks while open', async () => {
  const path = fileOf(
    rawSafetensors({x: {dtype: 'F32', shape: [2], data_offsets: [0, 8]}}, new Uint8Array(8)),
  );
  const file = SafetensorsFile.open(path);
  fs.truncateSync(path, fs.statSync(path).size - 1);
  const error = await thrownBy(() => file.read('x'));
  expect(error.code).toBe('CORRUPT_FILE');
  expect(error.message).toMatch(/Tensor "x" .*the file has shrunk since it was opened/);
  file.close();
});

describe('a 7 GiB file with a 5 GiB tensor', () => {
  const GIB = 2 ** 30;
  const path = join(folder, 'large.safetensors');
  let file: SafetensorsFile;

  beforeAll(() => {
    // The file is sparse: only the header and a few marked bytes take space on disk.
    const header = rawSafetensors({
      small: {dtype: 'F32', shape: [GIB / 2], data_offsets: [0, 2 * GIB]},
      huge: {dtype: 'F32', shape: [5, GIB / 4], data_offsets: [2 * GIB, 7 * GIB]},
      last: {dtype: 'BF16', shape: [2], data_offsets: [7 * GIB, 7 * GIB + 4]},
    });
    const descriptor = fs.openSync(path, 'w');
    fs.writeSync(descriptor, header);
    fs.ftruncateSync(descriptor, header.length + 7 * GIB + 4);
    fs.writeSync(descriptor, Uint8Array.of(1, 2, 3, 4), 0, 4, header.length + 6 * GIB);
    fs.writeSync(descriptor, Uint8Array.of(0x80, 0x3f, 0x00, 0xc0), 0, 4, header.length + 7 * GIB);
    fs.closeSync(descriptor);
    file = SafetensorsFile.open(path);
  });
  afterAll(() => file.close());

  test('takes next to no space here', () => {
    expect(fs.statSync(path).size).toBeGreaterThan(7 * GIB);
    expect(fs.statSync(path).blocks * 512).toBeLessThan(2 ** 20);
  });

  test('is read in parts at any offset', () => {
    expect([...file.readRange('huge', 4 * GIB - 1, 4 * GIB + 5)]).toEqual([0, 1, 2, 3, 4, 0]);
    expect([...file.readFloat32('last')]).toEqual([1, -2]);
    const target = new Int32Array(1);
    file.readInto('huge', target, 4 * GIB);
    expect(target[0]).toBe(0x04030201);
  });

  test('says how to read a tensor that no array can hold', async () => {
    const error = await thrownBy(() => file.read('huge'));
    expect(error.code).toBe('UNSUPPORTED');
    expect(error.message).toMatch(/Tensor "huge" .*got 5368709120. Read it piece by piece with readRange/);
  });
});
