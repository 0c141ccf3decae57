import {readdir, readFile} from 'node:fs/promises';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {LlamaForCausalLM} from '../../models/llama/llama.ts';
import {Tokenizer} from '../../models/tokenizer.ts';
import {describeEachBackend} from '../describeEachBackend.ts';
import {errorOf, inFolder, logitsOf, stirAdapter, tinyLlama} from './tinyLlama.ts';

const TOKENIZER = join(__dirname, 'fixtures/tokenizers/byteLevel');
const load = (source: Parameters<typeof LlamaForCausalLM.fromPretrained>[0], options = {}) =>
  LlamaForCausalLM.fromPretrained(source, options);

/** Returns the files of a folder as a browser's user chooses them. */
async function chosen(folder: string): Promise<File[]> {
  const names = await readdir(folder);
  return Promise.all(names.map(async (name) => new File([await readFile(join(folder, name))], name)));
}

describeEachBackend('models and adapters without a disk', () => {
  test('saves a model to memory and loads it as from disk, tokenizer included', () =>
    inFolder(async (folder) => {
      const before = tf.memory().numTensors;
      const model = tinyLlama({vocabSize: 2000}, {dtype: 'bfloat16'});
      model.tokenizer = await Tokenizer.fromFolder(TOKENIZER);
      model.generationConfig = {eosTokenId: 2};
      const files = new Map<string, Blob>();
      await model.save(files, {maxShardBytes: 2000});
      await model.save(folder, {maxShardBytes: 2000});
      expect([...files.keys()].sort()).toEqual((await readdir(folder)).sort());
      const copies = [await load(files), await load(await chosen(folder))];
      for (const copy of copies) {
        expect(copy.nameOrPath).toBe('');
        expect(copy.storage).toBe('bfloat16');
        expect(copy.generationConfig).toEqual({eosTokenId: 2});
        expect(copy.tokenizer!.encode('a bill')).toEqual(model.tokenizer.encode('a bill'));
        expect(logitsOf(copy)).toEqual(logitsOf(model));
        await copy.tokenizer!.save(new Map());
        copy.dispose();
      }
      model.dispose();
      expect(tf.memory().numTensors).toBe(before);
    }));

  test.each(['nf4', 'int8'] as const)(
    '%s: quantizes while loading, and loads a quantized save',
    async (type) => {
      const model = tinyLlama({hiddenSize: 64, intermediateSize: 64});
      const [plain, quantized] = [new Map<string, Blob>(), new Map<string, Blob>()];
      await model.save(plain);
      const first = await load(plain, {quantization: {type}});
      await first.save(quantized);
      const second = await load(quantized);
      expect(logitsOf(second)).toEqual(logitsOf(first));
      for (const each of [model, first, second]) each.dispose();
    },
  );

  test('names the other kind of folder, and what an empty one lacks', async () => {
    const model = tinyLlama();
    const missing = await errorOf(() => model.loadAdapter('no-such-folder'));
    expect(missing.message).toContain('Pass the folder of an adapter, as saveAdapter or PEFT writes it.');
    expect((await errorOf(() => load(__dirname))).message).toContain(
      "Pass the folder of a model in Hugging Face's",
    );
    const [whole, adapter] = [new Map<string, Blob>(), new Map<string, Blob>()];
    await model.save(whole);
    const refused = await errorOf(() => model.loadAdapter(whole));
    expect(refused.message).toContain('This is the folder of a model, which fromPretrained opens.');
    model.applyLoRA({rank: 2, baseModelNameOrPath: 'org/base'});
    await model.saveAdapter(adapter);
    const {message} = await errorOf(() => load(adapter));
    expect(message).toContain('This is the folder of an adapter: open its base model "org/base", and add');
    model.dispose();
  });

  test('saves and loads an adapter in memory, bit for bit as on disk', () =>
    inFolder(async (folder) => {
      const model = tinyLlama();
      model.applyLoRA({rank: 2, seed: 1});
      stirAdapter(model);
      const files = new Map<string, Blob>();
      await model.saveAdapter(files);
      await model.saveAdapter(folder);
      expect([...files.keys()].sort()).toEqual(['adapter_config.json', 'adapter_model.safetensors']);
      for (const file of await chosen(folder)) {
        expect(await files.get(file.name)!.arrayBuffer()).toEqual(await file.arrayBuffer());
      }
      for (const source of [files, await chosen(folder)]) {
        const other = tinyLlama();
        await other.loadAdapter(source);
        expect(logitsOf(other)).toEqual(logitsOf(model));
        other.dispose();
      }
      model.dispose();
    }));

  test('names what is missing or damaged, and does not change the model', async () => {
    const model = tinyLlama();
    model.applyLoRA({rank: 2});
    const files = new Map<string, Blob>();
    await model.saveAdapter(files);
    const other = tinyLlama();
    const before = tf.memory().numTensors;
    const without = (name: string) => new Map([...files].filter(([each]) => each !== name));
    expect(await errorOf(() => other.loadAdapter(without('adapter_config.json')))).toMatchObject({
      code: 'FILE_NOT_FOUND',
      message: expect.stringContaining('adapter_config.json'),
    });
    expect((await errorOf(() => other.loadAdapter(without('adapter_model.safetensors')))).code).toBe(
      'FILE_NOT_FOUND',
    );
    const cut = files.get('adapter_model.safetensors')!.slice(0, -4);
    expect(
      (await errorOf(() => other.loadAdapter(new Map(files).set('adapter_model.safetensors', cut)))).code,
    ).toBe('CORRUPT_FILE');
    expect((await errorOf(() => load(new Map()))).code).toBe('FILE_NOT_FOUND');
    expect((await errorOf(() => load(files))).message).toContain('config.json: expected a readable file');
    expect(other.adapterNames).toEqual([]);
    expect(tf.memory().numTensors).toBe(before);
    for (const each of [model, other]) each.dispose();
  });
});
