import * as fs from 'node:fs';
import {join} from 'node:path';
import fc from 'fast-check';
import {SafetensorsFile, type TensorToWrite, writeSafetensors} from '../../../quant/index.ts';
import {fixture, type GoldenTensor, golden} from '../fixtures/golden.ts';
import {temporaryFolder} from './temporaryFolder.ts';
import {thrownBy} from './thrownBy.ts';

const folder = temporaryFolder();
const path = join(folder, 'x.safetensors');

function tensorsOf(tensors: Record<string, GoldenTensor>): TensorToWrite[] {
  return Object.entries(tensors).map(([name, {dtype, shape, bytes}]) => ({
    name,
    dtype,
    shape,
    data: Buffer.from(bytes, 'hex'),
  }));
}

const u8 = (name: string, ...bytes: number[]): TensorToWrite => ({
  name,
  dtype: 'U8',
  shape: [bytes.length],
  data: Uint8Array.from(bytes),
});

test.each([
  ['torch', undefined],
  ['numpy', {}],
] as const)('writes the bytes that Python writes: %s', async (library, metadata) => {
  const tensors = tensorsOf(golden[library]);
  const expected = fs.readFileSync(fixture(`${library}.safetensors`));
  for (const order of [tensors, tensors.toReversed()]) {
    await writeSafetensors(path, order, metadata);
    expect(fs.readFileSync(path).equals(expected)).toBe(true);
  }
});

test('writes an empty file as Python does', async () => {
  await writeSafetensors(path, [], {});
  expect(fs.readFileSync(path)).toEqual(Buffer.from('\x08\0\0\0\0\0\0\0{}      '));
});

test('reads back any tensors and metadata', async () => {
  const tensor = fc
    .tuple(
      fc.string({unit: 'grapheme'}),
      fc.constantFrom('I8', 'BF16', 'I64'),
      fc.array(fc.nat(3), {maxLength: 3}),
    )
    .chain(([name, dtype, shape]) => {
      const length = shape.reduce((a, b) => a * b, {I8: 1, BF16: 2, I64: 8}[dtype]);
      return fc
        .uint8Array({minLength: length, maxLength: length})
        .map((data) => ({name, dtype, shape, data}) as const);
    });
  const tensors = fc.uniqueArray(tensor, {selector: ({name}) => name, maxLength: 6});
  await fc.assert(
    fc.asyncProperty(tensors, fc.dictionary(fc.string(), fc.string()), async (tensors, metadata) => {
      fc.pre(tensors.every(({name}) => name !== '__metadata__'));
      await writeSafetensors(path, tensors, metadata);
      const file = SafetensorsFile.open(path);
      expect(file.metadata).toEqual(metadata);
      expect(file.names().length).toBe(tensors.length);
      for (const {name, dtype, shape, data} of tensors) {
        expect(file.info(name)).toMatchObject({dtype, shape});
        expect(file.read(name)).toEqual(data);
      }
      file.close();
    }),
    {numRuns: 50},
  );
});

test('requests data one tensor at a time, in the order of the file, and awaits it', async () => {
  const asked: string[] = [];
  const later = (name: string, dtype: 'F32' | 'U8', data: ArrayBufferView): TensorToWrite => ({
    name,
    dtype,
    shape: [1],
    data: async () => {
      asked.push(name);
      await new Promise((resolve) => setTimeout(resolve, 1));
      asked.push(`${name} made`);
      return data;
    },
  });
  await writeSafetensors(path, [
    later('b', 'U8', Uint8Array.of(5)),
    later('a', 'U8', Uint8Array.of(4)),
    {...later('z', 'F32', Float32Array.of(1)), data: Float32Array.of(1)},
    later('y', 'F32', Float32Array.of(9, -2, 9).subarray(1, 2)),
  ]);
  expect(asked).toEqual(['y', 'y made', 'a', 'a made', 'b', 'b made']);
  const file = SafetensorsFile.open(path);
  expect([...file.readFloat32('y')]).toEqual([-2]);
  expect([...file.readFloat32('z')]).toEqual([1]);
  expect([...file.read('b')]).toEqual([5]);
  file.close();
});

test('creates the folder', async () => {
  const deep = join(folder, 'a', 'b', 'x.safetensors');
  await writeSafetensors(deep, [u8('x', 1)]);
  expect(fs.readdirSync(join(folder, 'a', 'b'))).toEqual(['x.safetensors']);
});

test('can rewrite the file it reads from', async () => {
  await writeSafetensors(path, [u8('a', 1, 2), u8('b', 3)]);
  const source = SafetensorsFile.open(path);
  const copies = source.names().map((name) => ({name, ...source.info(name), data: () => source.read(name)}));
  await writeSafetensors(path, [...copies, u8('c', 4)]);
  source.close();
  const file = SafetensorsFile.open(path);
  expect(file.names().map((name) => [...file.read(name)])).toEqual([[1, 2], [3], [4]]);
  file.close();
});

describe('when the writing fails', () => {
  const failing: TensorToWrite = {
    ...u8('z', 0),
    data: () => {
      throw new Error('no data today');
    },
  };

  test.each<[string, TensorToWrite[], RegExp]>([
    ['because data is missing', [u8('a', 1), failing], /no data today/],
    [
      'for a wrong size',
      [u8('a', 1), {...u8('x', 1, 2), shape: [3]}],
      /tensor "x" .*expected 3 bytes for U8 \[3\], got 2/,
    ],
    ['because of a bad name', [u8('a', 1), u8('a', 1)], /expected each name once/],
  ])('%s, only the old file remains', async (_, tensors, message) => {
    const own = temporaryFolder();
    const target = join(own, 'x.safetensors');
    await writeSafetensors(target, [u8('old', 7)]);
    const before = fs.readFileSync(target);
    await expect(writeSafetensors(target, tensors)).rejects.toThrow(message);
    expect(fs.readFileSync(target).equals(before)).toBe(true);
    expect(fs.readdirSync(own)).toEqual(['x.safetensors']);
  });

  test('a wrong size gives SHAPE_MISMATCH, a bad name INVALID_ARGUMENT', async () => {
    const size = await thrownBy(() => writeSafetensors(path, [{...u8('x', 1), shape: [3]}]));
    expect(size.code).toBe('SHAPE_MISMATCH');
    const name = await thrownBy(() => writeSafetensors(path, [u8('__metadata__')]));
    expect(name.code).toBe('INVALID_ARGUMENT');
  });
});
