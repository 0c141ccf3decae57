import * as fs from 'node:fs';
import {join} from 'node:path';
import fc from 'fast-check';
import {SafetensorsFolder, TfjsLoraError} from '../../../quant/index.ts';
import {fixture, golden} from '../fixtures/golden.ts';
import {rawSafetensors} from '../safetensors/rawSafetensors.ts';
import {temporaryFolder} from '../safetensors/temporaryFolder.ts';
import {thrownBy} from '../safetensors/thrownBy.ts';

/** Makes a shard with one-byte tensors: name → value. */
function shard(values: Record<string, number>): Uint8Array {
  const entries = Object.keys(values).map((name, i) => [
    name,
    {dtype: 'U8', shape: [], data_offsets: [i, i + 1]},
  ]);
  return rawSafetensors(Object.fromEntries(entries), Uint8Array.from(Object.values(values)));
}

function folderWith(files: Record<string, Uint8Array | string | object>): string {
  const folder = temporaryFolder();
  for (const [name, content] of Object.entries(files)) {
    const isJson = typeof content === 'object' && !(content instanceof Uint8Array);
    fs.writeFileSync(join(folder, name), isJson ? JSON.stringify(content) : content);
  }
  return folder;
}

const INDEX = 'model.safetensors.index.json';
const TWO_SHARDS = {
  [INDEX]: {
    metadata: {total_size: 3},
    weight_map: {a: '1.safetensors', b: '2.safetensors', c: '1.safetensors'},
  },
  '1.safetensors': shard({a: 1, c: 3}),
  '2.safetensors': shard({b: 2}),
};

test('reads the shards that transformers wrote', () => {
  const model = SafetensorsFolder.open(fixture('sharded'));
  const {tensors} = golden.sharded;
  expect(model.files.length).toBe(12);
  expect(model.names().sort()).toEqual(Object.keys(tensors).sort());
  for (const [name, {dtype, shape, bytes, float32}] of Object.entries(tensors)) {
    expect(model.info(name)).toMatchObject({dtype, shape});
    expect(Buffer.from(model.read(name)).toString('hex')).toBe(bytes);
    expect(Buffer.from(model.readFloat32(name).buffer).toString('hex')).toBe(float32);
  }
  model.close();
});

test('reads parts, and into the caller’s memory, from the right shard', () => {
  const model = SafetensorsFolder.open(folderWith(TWO_SHARDS));
  expect(model.names()).toEqual(['a', 'c', 'b']);
  expect(model.has('b')).toBe(true);
  expect(model.has('d')).toBe(false);
  expect([...model.readRange('b', 0, 1)]).toEqual([2]);
  const target = new Uint8Array(1);
  model.readInto('c', target);
  expect(target[0]).toBe(3);
  expect(model.fileOf('c').path).toMatch(/1\.safetensors$/);
  model.close();
});

test('prefers the single file to an index beside it', () => {
  const model = SafetensorsFolder.open(folderWith({...TWO_SHARDS, 'model.safetensors': shard({only: 1})}));
  expect(model.names()).toEqual(['only']);
  model.close();
});

test('finds files of another base name', () => {
  const folder = folderWith({'adapter_model.safetensors': shard({x: 1})});
  const model = SafetensorsFolder.open(folder, 'adapter_model');
  expect([...model.read('x')]).toEqual([1]);
  model.close();
});

test('reads unlisted tensors of a listed shard, and the listed copy of a tensor in two shards', () => {
  const folder = folderWith({
    [INDEX]: {weight_map: {a: '1.safetensors', b: '2.safetensors'}},
    '1.safetensors': shard({a: 1, extra: 9}),
    '2.safetensors': shard({b: 2, a: 8}),
    '3.safetensors': shard({unlisted: 1}),
  });
  const model = SafetensorsFolder.open(folder);
  expect(model.names()).toEqual(['a', 'extra', 'b']);
  expect([...model.read('a')]).toEqual([1]);
  expect([...model.read('extra')]).toEqual([9]);
  model.close();
});

test('names the nearest tensors when one is missing', async () => {
  const model = SafetensorsFolder.open(fixture('sharded'));
  const error = await thrownBy(() => model.read('model.layers.0.self_attn.q_prj.weight'));
  expect(error.code).toBe('MISSING_TENSOR');
  expect(error.message).toMatch(/Nearest: model\.layers\.0\.self_attn\.q_proj\.weight/);
  model.close();
});

test('does not read after it is closed', async () => {
  const model = SafetensorsFolder.open(folderWith(TWO_SHARDS));
  model.close();
  model.close();
  expect((await thrownBy(() => model.read('b'))).code).toBe('DISPOSED');
});

describe('open refuses', () => {
  const withMap = (weightMap: unknown) => ({...TWO_SHARDS, [INDEX]: {weight_map: weightMap}});

  test.each<[string, Record<string, Uint8Array | string | object>, string, RegExp]>([
    [
      'an empty folder',
      {},
      'FILE_NOT_FOUND',
      /expected model.safetensors or model.safetensors.index.json, got an empty/,
    ],
    [
      'other files',
      {'config.json': '{}'},
      'FILE_NOT_FOUND',
      /got a folder with \["config.json"\]. Check the path/,
    ],
    [
      'other formats',
      {'pytorch_model.bin': ''},
      'FILE_NOT_FOUND',
      /Only safetensors is read: convert pytorch_model.bin first\. .*\.from_pretrained\(folder\)\.save_pretrained\(folder\)/,
    ],
    [
      'a damaged single file',
      {'model.safetensors': ''},
      'CORRUPT_FILE',
      /model.safetensors\]: expected at least 8/,
    ],
    ['an index that is not JSON', {[INDEX]: '{'}, 'CORRUPT_FILE', /index.json\]: expected valid JSON/],
    ['an index that is null', {[INDEX]: 'null'}, 'CORRUPT_FILE', /expected weight_map to be an object/],
    [
      'no weight_map',
      {[INDEX]: '{"metadata":{}}'},
      'CORRUPT_FILE',
      /weight_map to be an object, got undefined/,
    ],
    [
      'a weight_map that is a list',
      withMap(['a']),
      'CORRUPT_FILE',
      /weight_map to be an object, got \["a"\]/,
    ],
    ['an empty weight_map', withMap({}), 'CORRUPT_FILE', /expected weight_map to name tensors, got none/],
    [
      'a tensor listed twice',
      {...TWO_SHARDS, [INDEX]: '{"weight_map":{"a":"1.safetensors","a":"2.safetensors"}}'},
      'CORRUPT_FILE',
      /key "a" twice/,
    ],
    [
      'a shard that is a number',
      withMap({a: 1}),
      'CORRUPT_FILE',
      /weight_map "a" .*expected a file name, got 1/,
    ],
    [
      'a missing shard',
      withMap({a: '9.safetensors'}),
      'FILE_NOT_FOUND',
      /Shard "9.safetensors" .*lists it, got no such/,
    ],
    [
      'a tensor absent from its shard',
      withMap({b: '1.safetensors'}),
      'MISSING_TENSOR',
      /Tensor "b" \[.*1.safetensors\]/,
    ],
    [
      'a damaged shard',
      {...TWO_SHARDS, '2.safetensors': 'x'},
      'CORRUPT_FILE',
      /2.safetensors\]: expected at least 8/,
    ],
    [
      'a shard above the folder',
      withMap({a: '../x.safetensors'}),
      'CORRUPT_FILE',
      /expected a plain file name/,
    ],
    ['a shard in a subfolder', withMap({a: 'x/y.safetensors'}), 'CORRUPT_FILE', /expected a plain file name/],
    [
      'an absolute shard',
      withMap({a: '/etc/passwd'}),
      'CORRUPT_FILE',
      /plain file name, got "\/etc\/passwd"/,
    ],
    ['a backslash', withMap({a: '..\\x.safetensors'}), 'CORRUPT_FILE', /expected a plain file name/],
    ['the folder itself', withMap({a: '.'}), 'CORRUPT_FILE', /expected a plain file name/],
    ['a shard without a name', withMap({a: ''}), 'CORRUPT_FILE', /expected a plain file name/],
    ['a zero byte', withMap({a: '1.safetensors\0'}), 'CORRUPT_FILE', /expected a plain file name/],
  ])('%s, and leaves nothing open', async (_, files, code, message) => {
    const folder = folderWith(files);
    const openFiles = () => (fs.existsSync('/proc/self/fd') ? fs.readdirSync('/proc/self/fd').length : 0);
    const before = openFiles();
    const error = await thrownBy(() => SafetensorsFolder.open(folder));
    expect(error.message).toMatch(message);
    expect(error.message).toContain(folder);
    expect(error.code).toBe(code);
    expect(openFiles()).toBe(before);
  });

  test('a folder that does not exist', async () => {
    const error = await thrownBy(() => SafetensorsFolder.open('/nowhere/at/all'));
    expect(error.code).toBe('FILE_NOT_FOUND');
    expect(error.message).toMatch(/Checkpoint folder \[\/nowhere\/at\/all\]: .*ENOENT/);
  });
});

test('opens any index, or throws TfjsLoraError', () => {
  const folder = folderWith(TWO_SHARDS);
  const shardName = fc.oneof(fc.constantFrom('1.safetensors', '2.safetensors', '..', 'none'), fc.jsonValue());
  const weightMap = fc.dictionary(fc.constantFrom('a', 'b', 'c', '__proto__'), shardName);
  const index = fc.oneof(fc.record({weight_map: fc.oneof(weightMap, fc.jsonValue())}), fc.jsonValue());
  const text = fc.oneof(
    index.map((value) => JSON.stringify(value)),
    fc.string(),
  );
  fc.assert(
    fc.property(text, (content) => {
      fs.writeFileSync(join(folder, INDEX), content);
      try {
        const model = SafetensorsFolder.open(folder);
        for (const name of model.names()) expect(model.read(name).length).toBe(1);
        model.close();
      } catch (error) {
        if (!(error instanceof TfjsLoraError)) throw error;
      }
    }),
    {numRuns: 500},
  );
});
