import {cp, mkdir, readdir, readFile, rm, writeFile} from 'node:fs/promises';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {LlamaForCausalLM} from '../../../models/llama/llama.ts';
import {SafetensorsFolder} from '../../../quant/folders/safetensorsFolder.ts';
import {writeSafetensors} from '../../../quant/safetensors/writeSafetensors.ts';
import {describeEachBackend} from '../../describeEachBackend.ts';
import {errorOf, inFolder, logitsOf, tinyLlama} from '../tinyLlama.ts';

const load = (folder: string, options = {}) => LlamaForCausalLM.fromPretrained(folder, options);

describeEachBackend('LlamaForCausalLM.fromConfig', () => {
  test('makes the same model from the same seed, and another from another', () => {
    const [a, b, c] = [tinyLlama({}, {seed: 3}), tinyLlama({}, {seed: 3}), tinyLlama({}, {seed: 4})];
    expect(logitsOf(a)).toEqual(logitsOf(b));
    expect(logitsOf(a)).not.toEqual(logitsOf(c));
    for (const model of [a, b, c]) model.dispose();
  });

  test('frees everything on dispose, also when called twice', () => {
    const before = tf.memory();
    const model = tinyLlama({tieWordEmbeddings: false, attentionBias: true, mlpBias: true});
    model.applyLoRA({rank: 2, useDoRA: true});
    model.mergeLoRA();
    logitsOf(model);
    model.dispose();
    model.dispose();
    expect(tf.memory().numTensors).toBe(before.numTensors);
    expect(tf.memory().numBytes).toBe(before.numBytes);
  });
});

describeEachBackend('save and fromPretrained', () => {
  test.each([
    ['float32', true],
    ['bfloat16', true],
    ['float16', false],
    ['float32', false],
  ] as const)('%s, tied %s: the same model, bit for bit', (dtype, tieWordEmbeddings) =>
    inFolder(async (folder) => {
      const before = tf.memory();
      const model = tinyLlama({tieWordEmbeddings, attentionBias: true}, {dtype});
      const [expected, bytes] = [logitsOf(model), tf.memory().numBytes - before.numBytes];
      await model.save(folder);
      model.dispose();
      const copy = await load(folder);
      expect(copy.storage).toBe(dtype);
      expect(tf.memory().numBytes - before.numBytes).toBe(bytes); // 16-bit weights stay 16-bit
      expect(logitsOf(copy)).toEqual(expected);
      expect([...copy.namedParameters().keys()].includes('lm_head.weight')).toBe(!tieWordEmbeddings);
      copy.dispose();
      expect(tf.memory().numTensors).toBe(before.numTensors);
    }),
  );

  test('stores matrices of 16-bit models in half the bytes', () => {
    const bytesOf = (dtype: 'float32' | 'bfloat16') => {
      const before = tf.memory().numBytes;
      const model = tinyLlama({}, {dtype});
      const bytes = tf.memory().numBytes - before;
      model.dispose();
      return bytes;
    };
    const norms = 4 * 8 * 5;
    expect(bytesOf('bfloat16') - norms).toBe((bytesOf('float32') - norms) / 2);
  });

  test('loads shards, other dtypes, and several models concurrently', () =>
    inFolder(async (folder) => {
      const model = tinyLlama();
      await model.save(folder, {maxShardBytes: 1000});
      const files = await readdir(folder);
      expect(files).toContain('model.safetensors.index.json');
      expect(
        files.filter((file) => /^model-0000\d-of-0000\d\.safetensors$/.test(file)).length,
      ).toBeGreaterThan(2);
      // Loading yields between tensors, so two loads must not mix their names.
      const copies = await Promise.all([load(folder), load(folder), load(folder, {dtype: 'bfloat16'})]);
      expect(logitsOf(copies[0])).toEqual(logitsOf(model));
      expect(logitsOf(copies[1])).toEqual(logitsOf(model));
      expect(copies[2].storage).toBe('bfloat16');
      const seen: number[] = [];
      const fourth = await load(folder, {
        onProgress: ({loaded, total}: {loaded: number; total: number}) => seen.push(loaded / total),
      });
      expect(seen.at(-1)).toBe(1);
      for (const each of [model, fourth, ...copies]) each.dispose();
    }));
});

describe('a damaged folder', () => {
  let good: string;
  let release: () => void;
  let written: Promise<void>;
  beforeAll(async () => {
    await tf.setBackend('cpu');
    await new Promise<void>((ready) => {
      written = inFolder(async (folder) => {
        good = folder;
        const model = tinyLlama();
        await model.save(folder);
        model.dispose();
        ready();
        await new Promise<void>((done) => {
          release = done;
        });
      });
    });
  });
  afterAll(async () => {
    release();
    await written;
  });

  type Tensors = Map<string, {dtype: 'F32'; shape: number[]; data: Uint8Array}>;

  /** Loads a copy of the good folder after a change. Expects an error, and that nothing is left behind. */
  const failure = (change: (folder: string) => Promise<void>) =>
    inFolder(async (folder) => {
      await cp(good, folder, {recursive: true});
      await change(folder);
      const before = tf.memory();
      const error = await errorOf(() => load(folder));
      expect(tf.memory().numTensors).toBe(before.numTensors);
      expect(tf.memory().numBytes).toBe(before.numBytes);
      return error;
    });

  /** A change of the tensors in the file. */
  const tensors = (edit: (tensors: Tensors) => void) => async (folder: string) => {
    const stored = SafetensorsFolder.open(folder);
    const all: Tensors = new Map(
      stored.names().map((name) => {
        const {shape} = stored.info(name);
        return [name, {dtype: 'F32' as const, shape: [...shape], data: Uint8Array.from(stored.read(name))}];
      }),
    );
    stored.close();
    edit(all);
    await writeSafetensors(
      join(folder, 'model.safetensors'),
      [...all].map(([name, tensor]) => ({name, ...tensor})),
    );
  };

  const NORM = 'model.layers.1.input_layernorm.weight';

  test('no folder', async () => {
    expect(await errorOf(() => load('/no/such/folder'))).toMatchObject({
      code: 'FILE_NOT_FOUND',
      message: expect.stringContaining('model folder /no/such/folder: expected a Hugging Face folder'),
    });
  });

  test.each([
    ['no config.json', (folder: string) => rm(join(folder, 'config.json')), 'FILE_NOT_FOUND', 'config.json'],
    [
      'no weights',
      (folder: string) => rm(join(folder, 'model.safetensors')),
      'FILE_NOT_FOUND',
      'safetensors',
    ],
    [
      'a config that is not JSON',
      (folder: string) => writeFile(join(folder, 'config.json'), '{"vocab'),
      'CORRUPT_FILE',
      'config.json: expected JSON',
    ],
    [
      'a config that is a list',
      (folder: string) => writeFile(join(folder, 'config.json'), '[]'),
      'CORRUPT_FILE',
      'got a list',
    ],
    [
      'truncated weights',
      async (folder: string) => {
        const path = join(folder, 'model.safetensors');
        await writeFile(path, (await readFile(path)).subarray(0, -8));
      },
      'CORRUPT_FILE',
      'model.safetensors',
    ],
    [
      'a missing tensor',
      tensors((all) => all.delete(NORM)),
      'MISSING_TENSOR',
      `expected tensor ${NORM}, got none`,
    ],
    [
      'a tensor of a third layer',
      tensors((all) => all.set('model.layers.2.input_layernorm.weight', all.get(NORM)!)),
      'UNEXPECTED_TENSOR',
      'tensor model.layers.2.input_layernorm.weight (',
    ],
    [
      'a wrong shape',
      tensors((all) => all.set(NORM, {dtype: 'F32', shape: [4], data: new Uint8Array(16)})),
      'SHAPE_MISMATCH',
      'expected [8] from config.json, got [4]',
    ],
    [
      'NaN',
      tensors((all) => new Float32Array(all.get(NORM)!.data.buffer).set([Number.NaN], 3)),
      'NON_FINITE',
      'got NaN or infinity at element 3',
    ],
    [
      'a corrupt generation config',
      (folder: string) => writeFile(join(folder, 'generation_config.json'), 'no'),
      'CORRUPT_FILE',
      'generation_config.json',
    ],
    [
      'a tokenizer with more ids than the model',
      (folder: string) => cp('test/models/fixtures/tokenizers/byteLevel', folder, {recursive: true}),
      'VOCABULARY_MISMATCH',
      '19',
    ],
  ])('%s', async (_, change, code, message) => {
    const error = await failure(change as (folder: string) => Promise<void>);
    expect(error.code).toBe(code);
    expect(error.message).toContain(message);
  });

  test('ignores a rotary table or a redundant tied head', () =>
    inFolder(async (folder) => {
      await cp(good, folder, {recursive: true});
      await tensors((all) => {
        all.set('model.layers.0.self_attn.rotary_emb.inv_freq', {
          dtype: 'F32',
          shape: [1],
          data: new Uint8Array(4),
        });
        all.set('lm_head.weight', all.get('model.embed_tokens.weight')!);
      })(folder);
      const model = await load(folder);
      const original = tinyLlama();
      expect(logitsOf(model)).toEqual(logitsOf(original));
      model.dispose();
      original.dispose();
    }));

  test('names a folder that cannot be written', () =>
    inFolder(async (folder) => {
      await mkdir(join(folder, 'x'));
      await writeFile(join(folder, 'x', 'file'), '');
      const model = tinyLlama();
      for (const write of [
        () => model.save(join(folder, 'x', 'file')),
        () => model.applyLoRA({rank: 1}).saveAdapter(join(folder, 'x', 'file', 'adapter')),
      ]) {
        expect(await errorOf(write)).toMatchObject({
          code: 'INVALID_ARGUMENT',
          message: expect.stringMatching(/^folder .*file.*: expected a folder to write into, got /),
        });
      }
      expect((await errorOf(() => model.save({save: async () => ({})} as never))).code).toBe('UNSUPPORTED');
      model.dispose();
    }));
});
