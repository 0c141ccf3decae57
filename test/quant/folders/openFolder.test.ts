import {randomUUID} from 'node:crypto';
import {mkdirSync, readdirSync} from 'node:fs';
import {createServer} from 'node:http';
import type {AddressInfo} from 'node:net';
import {join, resolve} from 'node:path';
import {pathToFileURL} from 'node:url';
import {readText, type WritableFolder} from '../../../quant/folders/folder.ts';
import {folderToWrite, openFolder} from '../../../quant/folders/openFolder.ts';
import {SafetensorsFolder, type TensorToWrite} from '../../../quant/index.ts';
import {temporaryFolder} from '../safetensors/temporaryFolder.ts';
import {thrownBy} from '../safetensors/thrownBy.ts';

const TENSORS: TensorToWrite[] = ['a', 'b', 'c'].map((name, i) => ({
  name,
  dtype: 'F32',
  shape: [2, 3],
  data: Float32Array.from({length: 6}, (_, at) => 10 * i + at),
}));

/** Serves files. For missing ones it sends a page, as servers of web applications do, or status 404, or a fault. */
async function withServer(
  files: ReadonlyMap<string, Blob>,
  missing: 'page' | 404 | 500,
  body: (url: string) => Promise<void>,
): Promise<string[]> {
  const asked: string[] = [];
  const server = createServer(async (request, response) => {
    const {pathname} = new URL(request.url!, 'http://host');
    asked.push(pathname);
    const file = files.get(pathname.replace('/model/', ''));
    if (file) {
      response.end(Buffer.from(await file.arrayBuffer()));
    } else if (missing === 'page') {
      response.setHeader('content-type', 'text/html; charset=utf-8').end('<!doctype html>');
    } else {
      response.writeHead(missing).end();
    }
  });
  await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening));
  try {
    await body(`http://127.0.0.1:${(server.address() as AddressInfo).port}/model`);
  } finally {
    await new Promise((closed) => server.close(closed));
  }
  return asked;
}

/** Two shards and an index, in memory. */
async function sharded(): Promise<Map<string, Blob>> {
  const files = new Map<string, Blob>();
  await folderToWrite(files).writeShards(TENSORS, {maxShardBytes: 48});
  return files;
}

async function expectTensors(model: SafetensorsFolder): Promise<void> {
  for (const {name, data} of TENSORS) {
    expect(new Float32Array((await model.load(name)).buffer as ArrayBuffer)).toEqual(data);
  }
  model.close();
}

test('saves the same files in memory as on disk, byte for byte', async () => {
  const [files, path] = [new Map<string, Blob>(), temporaryFolder()];
  for (const target of [files, path]) {
    const folder = folderToWrite(target);
    await folder.create();
    await folder.write('text', 'ö');
    await folder.writeSafetensors('one.safetensors', TENSORS);
    await folder.writeShards(TENSORS, {maxShardBytes: 48});
  }
  const disk = openFolder(path);
  expect([...files.keys()].sort()).toEqual((await disk.names())!.sort());
  expect(files.size).toBe(5);
  for (const [name, blob] of files) {
    expect(new Uint8Array(await blob.arrayBuffer())).toEqual(new Uint8Array((await disk.read(name))!));
  }
});

test('leaves nothing of the first save in memory after a second one', async () => {
  const files = await sharded();
  expect(files.size).toBe(3);
  await folderToWrite(files).writeShards(TENSORS.slice(0, 1), {});
  expect([...files.keys()]).toEqual(['model.safetensors']);
});

test('reads a model from files, from a browser’s list of files, from disk and from a URL', async () => {
  const files = await sharded();
  const path = temporaryFolder();
  const disk = folderToWrite(path);
  for (const [name, blob] of files) await disk.write(name, new Uint8Array(await blob.arrayBuffer()));
  const list = [...files].map(([name, blob]) => new File([blob], name));
  for (const source of [files, list, path]) {
    await expectTensors(await SafetensorsFolder.fromFolder(openFolder(source)));
  }
  for (const missing of ['page', 404] as const) {
    const asked = await withServer(files, missing, async (url) => {
      await expectTensors(await SafetensorsFolder.fromFolder(openFolder(url)));
      await expectTensors(await SafetensorsFolder.fromFolder(openFolder(new URL(`${url}/?token=1`))));
      expect(await readText(openFolder(url), 'config.json')).toBeUndefined();
    });
    expect(asked).toHaveLength(2 * 4 + 1); // each file once
  }
});

test('reads a Blob only asynchronously', async () => {
  const files = new Map<string, Blob>();
  await folderToWrite(files).writeSafetensors('one.safetensors', TENSORS);
  const file = await openFolder(files).openSafetensors('one.safetensors');
  const {code, message} = await thrownBy(() => file.read('a'));
  expect([code, message]).toEqual([
    'UNSUPPORTED',
    'one.safetensors: expected a file on disk, got a Blob, which cannot be read synchronously. Await load() instead.',
  ]);
  file.close();
  expect((await thrownBy(() => file.load('a'))).code).toBe('DISPOSED');
});

test('names damaged and missing files', async () => {
  const files = await sharded();
  const errorOf = (source: Parameters<typeof openFolder>[0], baseName?: string) =>
    thrownBy(() => SafetensorsFolder.fromFolder(openFolder(source), baseName));

  const short = new Map(files).set('model-00001-of-00002.safetensors', new Blob([new Uint8Array(20)]));
  expect(await errorOf(short)).toMatchObject({
    code: 'CORRUPT_FILE',
    message: expect.stringContaining('model-00001-of-00002.safetensors'),
  });
  const lacking = new Map(files);
  lacking.delete('model-00002-of-00002.safetensors');
  expect(await errorOf(lacking)).toMatchObject({code: 'FILE_NOT_FOUND'});
  expect((await errorOf(new Map([['pytorch_model.bin', new Blob()]]))).message).toContain(
    'Only safetensors is read: convert pytorch_model.bin first.',
  );
  await withServer(files, 404, async (url) => {
    expect((await errorOf(url, 'other')).message).toContain('got neither');
    const {code, message} = await thrownBy(() => openFolder(url).openSafetensors('x.safetensors'));
    expect([code, message]).toEqual(['FILE_NOT_FOUND', expect.stringContaining(`${url}/x.safetensors`)]);
  });
  await withServer(files, 500, async (url) => {
    expect((await errorOf(url, 'other')).message).toContain('got status 500');
  });
  expect(await errorOf('http://127.0.0.1:1/')).toMatchObject({code: 'FILE_NOT_FOUND'}); // nothing listens there
  expect((await thrownBy(() => openFolder(new Map()).openSafetensors('a'))).message).toBe(
    'file a: expected it among the files, got none.',
  );
});

test('refuses what is not a folder', async () => {
  for (const wrong of [undefined, null, 3, {}, ['config.json']]) {
    expect((await thrownBy(() => openFolder(wrong as never))).code).toBe('INVALID_ARGUMENT');
  }
  for (const wrong of ['https://host/model', new URL('https://host'), {}, undefined]) {
    expect((await thrownBy(() => folderToWrite(wrong as never))).code).toBe('INVALID_ARGUMENT');
  }
  const file = join(temporaryFolder(), 'file');
  await folderToWrite(join(file, '..')).write('file', 'x');
  expect((await thrownBy(() => folderToWrite(file).create())).code).toBe('INVALID_ARGUMENT');
});

test('accepts a custom folder', async () => {
  const folder = folderToWrite(await sharded());
  const own = Object.assign(Object.create(folder), {path: 'mine'});
  expect(openFolder(own)).toBe(own);
  expect(folderToWrite(own)).toBe(own);
});

describe('files that are written together', () => {
  const fill = (value: string, names: string[]) => async (draft: WritableFolder) => {
    for (const name of names) await draft.write(name, `${name} ${value}`);
  };
  const textsOf = async (source: string | Map<string, Blob>) => {
    const folder = openFolder(source);
    const texts = (await folder.names())!.sort().map(async (name) => [name, await readText(folder, name)]);
    return Object.fromEntries(await Promise.all(texts));
  };

  test('replace the earlier ones, on disk and in memory', async () => {
    for (const target of [temporaryFolder(), new Map<string, Blob>()]) {
      const folder = folderToWrite(target);
      await folder.write('mine', 'stays');
      await folder.writeTogether('entry', fill('1', ['entry', 'a', 'b']));
      await folder.writeTogether('entry', fill('2', ['entry', 'a']), (name) => name !== 'mine');
      expect(await textsOf(target)).toEqual({entry: 'entry 2', a: 'a 2', mine: 'stays'});
      const half = async (draft: WritableFolder) => {
        await draft.write('entry', '3');
        throw new Error('half');
      };
      await expect(folder.writeTogether('entry', half)).rejects.toThrow('half');
      expect(await textsOf(target)).toEqual({entry: 'entry 2', a: 'a 2', mine: 'stays'});
    }
  });

  test('remove what a dead process left, but not the draft of a running save', async () => {
    const path = temporaryFolder();
    const folder = folderToWrite(path);
    const left = ['.a.txt', '.draft'].map((name) => `${name}.${randomUUID()}.tmp`);
    const kept = ['.hidden', '.mine.tmp', `.checkpoint-4.${randomUUID()}.tmp`];
    for (const name of [...left, ...kept]) mkdirSync(join(path, name));
    await folder.writeTogether('outer', async (draft) => {
      await folder.writeTogether('inner', fill('1', ['inner']));
      await draft.write('outer', '1');
    });
    expect(readdirSync(path).sort()).toEqual([...kept, 'inner', 'outer'].sort());
  });
});

describe('paths with a scheme', () => {
  test('file:// is the disk, as in TensorFlow.js', async () => {
    const path = join(temporaryFolder(), 'a b');
    await folderToWrite(`file://${path}`).create();
    for (const source of [`file://${path}`, pathToFileURL(path)]) {
      expect(openFolder(source).pathOf('x')).toBe(join(path, 'x'));
      expect(await openFolder(source).exists()).toBe(true);
    }
    expect(openFolder('file://./models').pathOf('x')).toBe(resolve('models/x'));
  });

  test('others are refused', async () => {
    const message = expect.stringMatching(/^folder.*: expected a path, .* got (indexeddb|hf):\/\/x$/);
    for (const open of [() => folderToWrite('indexeddb://x'), () => openFolder('hf://x')])
      expect(await thrownBy(open)).toMatchObject({code: 'INVALID_ARGUMENT', message});
  });
});
