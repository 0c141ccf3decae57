import {setWarningHandler} from 'tfjs-lora';
import {CachedFolder, StorageFolder, serveTasks} from 'tfjs-lora/browser';
import {SafetensorsFolder, type TensorToWrite} from 'tfjs-lora/quant';

/* Uses StorageFolder and CachedFolder in a worker of storage.test.ts, and returns plain data for the test to compare. */

setWarningHandler(() => {});

const tensor = (name: string, value: number): TensorToWrite => ({
  name,
  dtype: 'F32',
  shape: [2],
  data: new Float32Array([value, value]),
});
const text = async (folder: StorageFolder, name: string) => new TextDecoder().decode(await folder.read(name));
const failure = (work: Promise<unknown>) =>
  work.then(
    () => 'nothing failed',
    ({code, message}) => ({code, message}),
  );
const numbersIn = async (folder: StorageFolder) => {
  const model = await SafetensorsFolder.fromFolder(folder);
  return Promise.all(['a', 'b'].map(async (name) => [...new Float32Array((await model.load(name)).buffer)]));
};

const tasks = serveTasks({
  async files() {
    const folder = new StorageFolder('/files//');
    const absent = [
      await folder.exists(),
      await folder.names(),
      await folder.read('a'),
      await folder.has('a'),
    ];
    await folder.write('a', 'first');
    await folder.write('a', 'second');
    await folder.append('below/log', 'one\n');
    await folder.append('below/log', 'two\n');
    const held = {
      a: await text(folder, 'a'),
      log: await text(folder, 'below/log'),
      names: (await folder.names()).sort(),
      files: await folder.files(),
      has: [await folder.has('below'), await folder.has('below/log'), await folder.has('b')],
      described: await folder.describe('a'),
      parent: folder.subfolder('below').parent.path,
    };
    await folder.rename('below', 'moved');
    await folder.rename('a', 'moved/log'); // replaces the file
    const moved = [await folder.files(), await text(folder, 'moved/log')];
    await folder.remove('moved');
    await folder.remove('moved'); // nothing is there any more
    await folder.write('file', '');
    const inFile = await failure(new StorageFolder('files/file').create());
    return {absent, held, moved, left: await folder.files(), inFile};
  },

  async together() {
    const folder = new StorageFolder('together');
    const shards = (value: number, count: number) =>
      folder.writeShards([tensor('a', value), tensor('b', value)], {maxShardBytes: count === 2 ? 8 : 1e9});
    await shards(1, 2);
    const two = [(await folder.files()).length, await numbersIn(folder)];
    const broken = await failure(
      folder.writeTogether('config.json', async (draft) => {
        await draft.write('model-00001-of-00002.safetensors', 'another model');
        throw new Error('mine');
      }),
    );
    const unchanged = await numbersIn(folder);
    await shards(2, 1);
    const one = [await folder.files(), await numbersIn(folder)];
    // What a killed tab may leave.
    await folder.write('.draft.01234567-89ab-cdef-0123-456789abcdef.tmp/x', '');
    await folder.removeTemporaries();
    return {two, broken, unchanged, one, left: await folder.files()};
  },

  async lock() {
    const folder = new StorageFolder('locked');
    await folder.assertUsable('outputDir');
    const lock = await folder.lock('outputDir');
    const refused = [
      await failure(folder.lock('outputDir')),
      await failure(folder.assertUsable('outputDir')),
    ];
    lock.release();
    (await folder.lock('outputDir')).release();
    return refused;
  },

  async full(bytes: number) {
    const folder = new StorageFolder('full');
    await folder.write('kept', 'small');
    const large = {name: 'a', dtype: 'U8', shape: [bytes], data: () => new Uint8Array(bytes)} as const;
    const refused = await failure(folder.writeSafetensors('kept', [large]));
    return {refused, kept: await text(folder, 'kept'), files: await folder.files()};
  },

  async cached(url: string) {
    const storage = new StorageFolder('cached');
    const progress: {file: string; bytes: number; total?: number}[] = [];
    const open = () => new CachedFolder(url, storage, {onProgress: (each) => progress.push(each)});
    const [first, second] = [open(), open()];
    const names = ['config.json', 'none.json'];
    const has = await Promise.all([first, second].flatMap((folder) => names.map((name) => folder.has(name))));
    const read = await first.read('config.json');
    const stored = await storage.read('config.json');
    return {
      has,
      isSame: String(read) === String(stored),
      bytes: stored?.length,
      last: progress.at(-1),
      none: await failure(first.openSafetensors('none.safetensors')),
      unreachable: await failure(
        new CachedFolder('http://127.0.0.1:1/', new StorageFolder('other')).has('config.json'),
      ),
    };
  },
});
export type Tasks = typeof tasks;
