import * as fs from 'node:fs';
import {join} from 'node:path';
import fc from 'fast-check';
import {SafetensorsFolder, type TensorToWrite, writeShardedSafetensors} from '../../../quant/index.ts';
import {fixture, golden} from '../fixtures/golden.ts';
import {temporaryFolder} from './temporaryFolder.ts';
import {thrownBy} from './thrownBy.ts';

const u8 = (name: string, length: number, value = 0): TensorToWrite => ({
  name,
  dtype: 'U8',
  shape: [length],
  data: new Uint8Array(length).fill(value),
});

const shardsOf = (folder: string) => {
  const {weight_map: map} = JSON.parse(fs.readFileSync(join(folder, 'model.safetensors.index.json'), 'utf8'));
  return map as Record<string, string>;
};

test('writes the files that save_pretrained writes, byte for byte', async () => {
  const folder = temporaryFolder();
  const {tensors, order, maxShardBytes, totalParameters} = golden.sharded;
  const written = await writeShardedSafetensors(
    folder,
    order.map((name) => ({...tensors[name], name, data: () => Buffer.from(tensors[name].bytes, 'hex')})),
    {maxShardBytes, totalParameters},
  );
  expect(written.totalSize).toBe(2 * totalParameters);
  expect(written.files.length).toBe(12);
  const expected = fs.readdirSync(fixture('sharded')).sort();
  expect(fs.readdirSync(folder).sort()).toEqual(expected);
  for (const name of expected) {
    const ours = fs.readFileSync(join(folder, name));
    expect([name, ours.equals(fs.readFileSync(join(fixture('sharded'), name)))]).toEqual([name, true]);
  }
});

test('writes one file without an index when everything fits', async () => {
  const folder = temporaryFolder();
  const written = await writeShardedSafetensors(folder, [u8('a', 5), u8('b', 5)], {maxShardBytes: 10});
  expect(written).toEqual({files: ['model.safetensors'], totalSize: 10});
  expect(fs.readdirSync(folder)).toEqual(['model.safetensors']);
});

test('writes one empty file for no tensors', async () => {
  const folder = temporaryFolder();
  expect((await writeShardedSafetensors(folder, [])).files).toEqual(['model.safetensors']);
  const model = SafetensorsFolder.open(folder);
  expect(model.names()).toEqual([]);
  model.close();
});

test('fills shards in order; a tensor that is too large gets its own, and the current shard continues', async () => {
  const folder = temporaryFolder();
  const sizes = {a: 4, big: 11, b: 4, c: 4, d: 10};
  await writeShardedSafetensors(
    folder,
    Object.entries(sizes).map(([name, size]) => u8(name, size)),
    {maxShardBytes: 10, baseName: 'model'},
  );
  expect(shardsOf(folder)).toEqual({
    big: 'model-00001-of-00004.safetensors',
    a: 'model-00002-of-00004.safetensors',
    b: 'model-00002-of-00004.safetensors',
    c: 'model-00003-of-00004.safetensors',
    d: 'model-00004-of-00004.safetensors',
  });
});

test('prints the index as Python does: sorted by code point, in ASCII', async () => {
  const folder = temporaryFolder();
  const names = ['10', '9', '\uffee', '😀', 'é"\x7f'];
  await writeShardedSafetensors(
    folder,
    names.map((name) => u8(name, 2)),
    {maxShardBytes: 1},
  );
  // python3 -c 'import json; print(json.dumps({...}, indent=2, sort_keys=True))'
  expect(fs.readFileSync(join(folder, 'model.safetensors.index.json'), 'utf8')).toBe(
    `{
  "metadata": {
    "total_size": 10
  },
  "weight_map": {
    "10": "model-00001-of-00005.safetensors",
    "9": "model-00002-of-00005.safetensors",
    "\\u00e9\\"\\u007f": "model-00005-of-00005.safetensors",
    "\\uffee": "model-00003-of-00005.safetensors",
    "\\ud83d\\ude00": "model-00004-of-00005.safetensors"
  }
}
`,
  );
});

test('reads back any sizes with any limit', async () => {
  const folder = temporaryFolder();
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.nat(20), {maxLength: 8}),
      fc.integer({min: 1, max: 40}),
      async (sizes, limit) => {
        const tensors = sizes.map((size, i) => u8(`t${i}`, size, i));
        const {files, totalSize} = await writeShardedSafetensors(folder, tensors, {maxShardBytes: limit});
        expect(totalSize).toBe(sizes.reduce((a, b) => a + b, 0));
        const model = SafetensorsFolder.open(folder);
        // Nothing remains of the last round's save.
        const present = fs.readdirSync(folder).filter((name) => name.endsWith('.safetensors'));
        expect(present.sort()).toEqual([...files].sort());
        expect(model.names().length).toBe(sizes.length);
        for (const {name, data} of tensors) expect(model.read(name)).toEqual(data);
        model.close();
      },
    ),
    {numRuns: 60},
  );
});

test('removes an earlier save of the same name, and nothing else', async () => {
  const folder = temporaryFolder();
  const kept = [
    'config.json',
    'adapter_model.safetensors',
    'model-00001-of-00002.safetensors.bak',
    'model.gguf',
  ];
  for (const name of kept) fs.writeFileSync(join(folder, name), '');
  const tensors = [u8('a', 2), u8('b', 2), u8('c', 2)];
  const present = () => fs.readdirSync(folder).filter((name) => !kept.includes(name));
  await writeShardedSafetensors(folder, tensors);
  expect(present()).toEqual(['model.safetensors']);
  await writeShardedSafetensors(folder, tensors, {maxShardBytes: 2});
  expect(present().length).toBe(4);
  await writeShardedSafetensors(folder, tensors, {maxShardBytes: 4});
  expect(present().sort()).toEqual([
    'model-00001-of-00002.safetensors',
    'model-00002-of-00002.safetensors',
    'model.safetensors.index.json',
  ]);
  await writeShardedSafetensors(folder, tensors);
  expect(present()).toEqual(['model.safetensors']);
  expect(fs.readdirSync(folder).length).toBe(1 + kept.length);
});

test('keeps the earlier save when a save fails', async () => {
  const folder = temporaryFolder();
  const tensors = [u8('a', 2, 1), u8('b', 2, 1)];
  await writeShardedSafetensors(folder, tensors, {maxShardBytes: 2});
  const contents = () =>
    fs.readdirSync(folder).map((name) => [name, fs.readFileSync(join(folder, name), 'hex')]);
  const before = contents();
  const second = [u8('a', 2, 9), {...u8('b', 2), data: new Uint8Array(3)}];
  const error = await thrownBy(() => writeShardedSafetensors(folder, second, {maxShardBytes: 2}));
  expect(error.code).toBe('SHAPE_MISMATCH');
  expect(error.message).toMatch(/tensor "b" \[.*model-00002-of-00002.safetensors\]/);
  expect(contents()).toEqual(before);
});

test('refuses a save interrupted during its renames, and does not mix it with the earlier one', async () => {
  const folder = temporaryFolder();
  const save = (value: number) =>
    writeShardedSafetensors(folder, [u8('a', 2, value), u8('b', 2, value)], {maxShardBytes: 2});
  await save(1);
  const second = join(folder, 'model-00002-of-00002.safetensors');
  fs.rmSync(second);
  fs.mkdirSync(join(second, 'in the way'), {recursive: true});
  await expect(save(2)).rejects.toThrow(/rename/);
  fs.rmSync(second, {recursive: true});
  expect(fs.readdirSync(folder)).toEqual(['model-00001-of-00002.safetensors']);
  expect((await thrownBy(() => SafetensorsFolder.open(folder))).code).toBe('FILE_NOT_FOUND');
});

test('refuses a name used in two shards, before writing', async () => {
  const folder = temporaryFolder();
  const error = await thrownBy(() =>
    writeShardedSafetensors(folder, [u8('a', 2), u8('a', 2)], {maxShardBytes: 2}),
  );
  expect(error.message).toMatch(/tensor "a" .*expected each name once/);
  expect(fs.readdirSync(folder)).toEqual([]);
});

test.each([0, -1, Number.NaN])('refuses shards of %d bytes', async (maxShardBytes) => {
  const error = await thrownBy(() => writeShardedSafetensors(temporaryFolder(), [], {maxShardBytes}));
  expect(error.code).toBe('INVALID_ARGUMENT');
});
