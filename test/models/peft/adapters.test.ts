import {cp, readFile, writeFile} from 'node:fs/promises';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {LoRADense} from '../../../layers/loraDense.ts';
import {LlamaForCausalLM} from '../../../models/llama/llama.ts';
import {SafetensorsFile} from '../../../quant/safetensors/safetensorsFile.ts';
import {writeSafetensors} from '../../../quant/safetensors/writeSafetensors.ts';
import {describeEachBackend} from '../../describeEachBackend.ts';
import {expectClose} from '../../expectClose.ts';
import {errorOf, inFolder, logitsOf, stirAdapter, tinyLlama} from '../tinyLlama.ts';

const adapted = (model: LlamaForCausalLM) => [...model.adaptedLayers().keys()];
const trained = (model: LlamaForCausalLM) => [...model.trainableParameters().keys()].sort();
const PROJECTIONS = ['self_attn.q_proj', 'self_attn.k_proj', 'self_attn.v_proj', 'self_attn.o_proj'];

describeEachBackend('applyLoRA', () => {
  let model: LlamaForCausalLM;
  let before: number;
  beforeEach(() => {
    before = tf.memory().numTensors;
    model = tinyLlama();
  });
  afterEach(() => {
    model.dispose();
    expect(tf.memory().numTensors).toBe(before);
  });

  test('adapts every linear layer except the head by default, without changing the outputs', () => {
    const base = logitsOf(model);
    expect(model.applyLoRA({rank: 2})).toBe(model);
    expect(adapted(model)).toHaveLength(14);
    expect(logitsOf(model)).toEqual(base);
    expect(trained(model)).toHaveLength(28);
    expect(trained(model)[0]).toBe('base_model.model.model.layers.0.mlp.down_proj.lora_A.weight');
    expect(model.trainableWeights).toHaveLength(28);
    expect(model.adapterOptions()).toMatchObject({rank: 2, targetModules: 'all-linear'});
  });

  test.each([
    ['a list', {targetModules: ['q_proj', 'v_proj']}, 4],
    ['a pattern', {targetModules: '.*\\.mlp\\..*'}, 6],
    ['a RegExp', {targetModules: /.*\.1\.self_attn\.[qk]_proj/}, 2],
    ['one block', {layersToTransform: 1}, 7],
    ['a list in one block', {targetModules: ['q_proj'], layersToTransform: [0]}, 1],
  ])('%s', (_, options, count) => {
    model.applyLoRA({rank: 1, ...options});
    expect(adapted(model)).toHaveLength(count);
  });

  test('reads rankPattern and alphaPattern as the end of a name or an expression', () => {
    model.applyLoRA({
      rank: 2,
      alpha: 6,
      targetModules: PROJECTIONS.map((name) => name.split('.')[1]),
      rankPattern: {q_proj: 4, 'layers.1.self_attn.[kv]_proj': 1},
      alphaPattern: {'model.layers.0.self_attn.o_proj': 10},
    });
    const settings = Object.fromEntries(
      [...model.adaptedLayers()].map(([name, layer]) => {
        const {rank, alpha} = layer.adapter().settings;
        return [name.replace('model.layers.', '').replace('.self_attn', ''), [rank, alpha]];
      }),
    );
    expect(settings).toEqual({
      '0.q_proj': [4, 6],
      '0.k_proj': [2, 6],
      '0.v_proj': [2, 6],
      '0.o_proj': [2, 10],
      '1.q_proj': [4, 6],
      '1.k_proj': [1, 6],
      '1.v_proj': [1, 6],
      '1.o_proj': [2, 6],
    });
  });

  test.each([
    ['an unknown target', {targetModules: ['q_porj']}, 'UNKNOWN_TARGET', 'Nearest: q_proj'],
    [
      'rank 0',
      {rank: 0},
      'INVALID_ARGUMENT',
      'LoRA rank for model.layers.0.self_attn.q_proj: expected an integer from 1 to 8',
    ],
    [
      'a rank that one layer cannot have',
      {rank: 8},
      'INVALID_ARGUMENT',
      'LoRA rank for model.layers.0.self_attn.k_proj',
    ],
    ['a rank of a pattern', {rank: 1, rankPattern: {down_proj: 99}}, 'INVALID_ARGUMENT', 'down_proj'],
    [
      'a pattern that is none',
      {rank: 1, rankPattern: {'(': 1}},
      'INVALID_ARGUMENT',
      'LoRA pattern "(": expected a regular expression',
    ],
    ['dropout 1', {rank: 1, dropout: 1}, 'INVALID_ARGUMENT', 'expected 0 ≤ p < 1, got 1'],
    [
      'a flag in words',
      {rank: 1, useRsLoRA: 'no' as never},
      'INVALID_ARGUMENT',
      'LoRA useRsLoRA for model.layers.0.self_attn.q_proj: expected true or false, got "no"',
    ],
    ['a block that does not exist', {rank: 1, layersToTransform: [2]}, 'UNKNOWN_TARGET', 'got 2'],
    ['a bad name', {rank: 1, adapterName: 'a.b'}, 'INVALID_ARGUMENT', 'adapter name "a.b"'],
  ])('refuses %s and does not change the model', async (_, options, code, message) => {
    const before = {tensors: tf.memory().numTensors, trained: trained(model), logits: logitsOf(model)};
    const error = await errorOf(() => model.applyLoRA(options));
    expect(error.code).toBe(code);
    expect(error.message).toContain(message);
    expect({tensors: tf.memory().numTensors, trained: trained(model), logits: logitsOf(model)}).toEqual(
      before,
    );
    expect(model.adapterNames).toEqual([]);
  });

  test('drops the same values when backward recomputes an adapted head, even if the seed is undefined', () => {
    const untied = tinyLlama({tieWordEmbeddings: false});
    untied.applyLoRA({rank: 2, targetModules: ['lm_head'], dropout: 0.5});
    const apply = jest.spyOn(untied.lm_head, 'apply');
    const batch = {inputIds: [[1, 2, 3]], labels: [[1, 2, 3]]};
    const {value, grads} = tf.variableGrads(
      () => untied.lossSum(batch, {training: true, seed: undefined}),
      [...untied.trainableParameters().values()],
    );
    const seeds = apply.mock.calls.map(([, options]) => options?.seed);
    expect(seeds).toEqual([expect.any(Number), seeds[0]]);
    tf.dispose([value, grads]);
    untied.dispose();
  });

  test('adapts an untied head, in logits and in the loss', () => {
    const untied = tinyLlama({tieWordEmbeddings: false});
    untied.applyLoRA({rank: 2, targetModules: ['lm_head']});
    expect(untied.lm_head).toBeInstanceOf(LoRADense);
    stirAdapter(untied);
    const batch = {inputIds: [[1, 2, 3]], labels: [[1, 2, 3]]};
    const {value, grads} = tf.variableGrads(
      () => untied.lossSum(batch, {training: true}),
      [...untied.trainableParameters().values()],
    );
    const logits = tf.tidy(() => tf.logSoftmax(untied.predict([[1, 2, 3]])).arraySync() as number[][][]);
    expectClose(value, [-logits[0][0][2] - logits[0][1][3]]);
    expect(Object.keys(grads)).toHaveLength(2);
    for (const grad of Object.values(grads))
      expect(tf.tidy(() => tf.max(tf.abs(grad)).dataSync()[0])).toBeGreaterThan(0);
    tf.dispose([value, grads]);
    untied.dispose();
  });

  test('makes the same adapter from the same seed', () => {
    const a = (seed: number) => {
      const other = tinyLlama();
      other.applyLoRA({rank: 2, seed});
      const values = Array.from([...other.trainableParameters().values()][0].dataSync());
      other.dispose();
      return values;
    };
    expect(a(1)).toEqual(a(1));
    expect(a(1)).not.toEqual(a(2));
  });
});

describeEachBackend('several adapters', () => {
  let model: LlamaForCausalLM;
  let before: number;
  let base: Float32Array;
  let a: Float32Array;
  let b: Float32Array;
  beforeEach(() => {
    before = tf.memory().numTensors;
    model = tinyLlama();
    base = logitsOf(model);
    model.applyLoRA({rank: 2, adapterName: 'a', targetModules: ['q_proj', 'up_proj']});
    stirAdapter(model, 'a');
    a = logitsOf(model);
    model.applyLoRA({rank: 1, adapterName: 'b', targetModules: ['q_proj', 'down_proj']});
    stirAdapter(model, 'b', 50);
    b = logitsOf(model);
  });
  afterEach(() => {
    model.dispose();
    expect(tf.memory().numTensors).toBe(before);
  });

  test('activates the last one; setAdapter switches, weights and disables', () => {
    expect(model.adapterNames).toEqual(['a', 'b']);
    expect(model.activeAdapters).toEqual(['b']);
    expect(b).not.toEqual(a);
    expect(logitsOf(model.setAdapter('a'))).toEqual(a);
    expect(trained(model).every((key) => /\.(q_proj|up_proj)\.lora_[AB]\.weight$/.test(key))).toBe(true);
    expect(logitsOf(model.setAdapter({a: 0}))).toEqual(base);
    expect(logitsOf(model.setAdapter([]))).toEqual(base);
    const both = logitsOf(model.setAdapter(['a', 'b']));
    expect(both).not.toEqual(a);
    expect(trained(model)).toContain('base_model.model.model.layers.0.self_attn.q_proj.lora_A.b.weight');
    expect(logitsOf(model.setAdapter({b: 1, a: 1}))).toEqual(logitsOf(model.setAdapter(['b', 'a'])));
    expect(logitsOf(model.setAdapter('b'))).toEqual(b);
  });

  test('checks names and weights', async () => {
    expect(await errorOf(() => model.setAdapter('c'))).toEqual({
      code: 'UNKNOWN_ADAPTER',
      message: 'adapter "c": expected one of a, b',
    });
    expect((await errorOf(() => model.setAdapter({a: Number.NaN}))).code).toBe('INVALID_ARGUMENT');
    expect((await errorOf(() => model.applyLoRA({adapterName: 'a'}))).message).toContain(
      'expected a new name',
    );
    expect((await errorOf(() => model.deleteAdapter('c'))).code).toBe('UNKNOWN_ADAPTER');
    expect(logitsOf(model)).toEqual(b);
  });

  test('withoutAdapter works for plain, async and throwing functions', async () => {
    expect(model.withoutAdapter(() => logitsOf(model))).toEqual(base);
    expect(logitsOf(model)).toEqual(b);
    const later = model.withoutAdapter(async () => {
      await new Promise((resume) => setTimeout(resume, 1));
      return logitsOf(model);
    });
    expect(await later).toEqual(base);
    expect(logitsOf(model)).toEqual(b);
    expect(() => model.withoutAdapter(() => { throw new Error('sync'); })).toThrow('sync'); // biome-ignore format: one line
    await expect(model.withoutAdapter(() => Promise.reject(new Error('async')))).rejects.toThrow('async');
    expect(logitsOf(model)).toEqual(b);
    model.mergeLoRA();
    const merged = logitsOf(model);
    expect(model.withoutAdapter(() => logitsOf(model))).toEqual(base);
    expect(logitsOf(model)).toEqual(merged);
  });

  test('withAdapters computes with other adapters, which do not train then', async () => {
    const trained = [...model.trainableParameters().keys()];
    const other = model.withAdapters('a', () => [logitsOf(model), [...model.trainableParameters().keys()]]);
    expect(other).toEqual([a, trained]);
    expect(logitsOf(model)).toEqual(b);
    expect((await errorOf(() => model.withAdapters(['a', 'c'], () => 1))).code).toBe('UNKNOWN_ADAPTER');
  });

  test('deleteAdapter frees an adapter, and the last one leaves plain layers', () => {
    model.setAdapter('a').deleteAdapter('b');
    expect(logitsOf(model)).toEqual(a);
    expect(adapted(model)).toHaveLength(4);
    model.deleteAdapter('a');
    expect(adapted(model)).toEqual([]);
    expect(logitsOf(model)).toEqual(base);
    const plain = tinyLlama();
    const one = tf.memory().numTensors;
    plain.dispose();
    expect(tf.memory().numTensors - before).toBe(one - tf.memory().numTensors);
  });

  test('deleteAdapter of one of a merged pair unmerges the other', () => {
    model.setAdapter(['a', 'b']).mergeLoRA();
    model.deleteAdapter('b');
    expect(logitsOf(model)).toEqual(a);
    expect([...model.adaptedLayers().values()].some((layer) => layer.isMerged)).toBe(false);
  });

  test('merges to the sum, unmerges bit for bit, and refuses changes while merged', async () => {
    model.setAdapter({a: 0.5, b: 2});
    const both = logitsOf(model);
    model.mergeLoRA();
    expectClose(logitsOf(model), both);
    expect((await errorOf(() => model.setAdapter('a'))).message).toContain('unmergeLoRA() first');
    expect((await errorOf(() => model.applyLoRA({adapterName: 'c'}))).message).toContain(
      'unmergeLoRA() or fuseLoRA()',
    );
    model.unmergeLoRA();
    expect(logitsOf(model)).toEqual(both);
    expect(model.withoutAdapter(() => logitsOf(model))).toEqual(base);
  });

  test.each(['mergeLoRA', 'fuseLoRA'] as const)(
    'an aborted %s leaves what was merged before it',
    async (call) => {
      const [first] = [...model.adaptedLayers().values()].filter((layer) => layer.activeAdapters.length > 0);
      first.merge();
      const one = logitsOf(model);
      const abortAfter = (last: number) => () =>
        model[call]({
          onProgress: ({done}) => {
            if (done === last) throw new Error('enough');
          },
        });
      expect(abortAfter(2)).toThrow('enough');
      expect([...model.adaptedLayers().values()].filter((layer) => layer.isMerged)).toEqual([first]);
      expect(logitsOf(model)).toEqual(one);
      const merged = logitsOf(model.mergeLoRA());
      for (const last of [1, 3]) expect(abortAfter(last)).toThrow('enough');
      expect(logitsOf(model)).toEqual(merged);
      expect(logitsOf(model.unmergeLoRA())).toEqual(b);
    },
  );

  test('a merge of other adapters for a while leaves what was merged before it', () => {
    const merged = logitsOf(model.mergeLoRA());
    const other = model.withAdapters('a', () => logitsOf(model.mergeLoRA()));
    expectClose(other, a);
    expect(logitsOf(model)).toEqual(merged);
    expect(logitsOf(model.unmergeLoRA())).toEqual(b);
  });

  test('does not change any layer when a merge fails in one', async () => {
    const last = [...model.adaptedLayers().values()]
      .filter((layer) => layer.activeAdapters.length > 0)
      .at(-1)!;
    const {loraB} = last.adapter('b');
    const fine = loraB.read().clone();
    const broken = tf.fill(loraB.logicalShape, Number.NaN);
    loraB.write(broken);
    expect((await errorOf(() => model.mergeLoRA())).code).toBe('NON_FINITE');
    loraB.write(fine);
    tf.dispose([fine, broken]);
    expect(logitsOf(model)).toEqual(b);
  });

  test('fuses into plain layers with the update', () => {
    model.fuseLoRA();
    expect(adapted(model)).toEqual([]);
    expect(model.adapterNames).toEqual([]);
    expectClose(logitsOf(model), b);
    model.applyLoRA({rank: 1});
    expectClose(logitsOf(model), b);
  });

  test('refuses to merge without an active adapter', async () => {
    expect((await errorOf(() => model.setAdapter([]).mergeLoRA())).code).toBe('UNKNOWN_ADAPTER');
  });
});

describeEachBackend('saveAdapter and loadAdapter', () => {
  const variants = {
    plain: {},
    patterns: {targetModules: ['q_proj', 'down_proj'], rankPattern: {q_proj: 3}, alphaPattern: {q_proj: 1}},
    rsLoRA: {useRsLoRA: true, alpha: 3, targetModules: /.*\.MLP\..*/i},
    DoRA: {useDoRA: true, layersToTransform: [1], targetModules: '.*_proj'},
  };
  test.each(Object.entries(variants))('%s: round trip', (_, options) =>
    inFolder(async (folder) => {
      const model = tinyLlama();
      model.applyLoRA({rank: 2, ...options});
      stirAdapter(model);
      await model.saveAdapter(folder);
      const copy = tinyLlama();
      expect(await copy.loadAdapter(folder)).toBe(copy);
      expect(logitsOf(copy)).toEqual(logitsOf(model));
      expect(adapted(copy)).toEqual(adapted(model));
      expect(trained(copy)).toEqual([]); // loaded frozen
      const config = JSON.parse(await readFile(join(folder, 'adapter_config.json'), 'utf8'));
      expect(config).toMatchObject({
        peft_type: 'LORA',
        r: 2,
        use_rslora: 'useRsLoRA' in options,
        use_dora: 'useDoRA' in options,
      });
      // PEFT accepts layers only together with a list, and has no flags.
      if (config.layers_to_transform) expect(Array.isArray(config.target_modules)).toBe(true);
      copy.dispose();
      const tuned = tinyLlama();
      await tuned.loadAdapter(folder, {adapterName: 'mine', trainable: true});
      expect(trained(tuned)).toEqual(trained(model));
      tuned.dispose();
      model.dispose();
    }),
  );

  test('keeps the adapter when it is merged into a saved model', () =>
    inFolder(async (folder) => {
      const model = tinyLlama();
      model.applyLoRA({rank: 2});
      stirAdapter(model);
      const adapterLogits = logitsOf(model);
      const refused = await errorOf(() => model.save(folder));
      expect(refused.message).toMatch(
        /expected merged adapters, got an unmerged one on model\.layers\.0\..*Call mergeLoRA\(\)/,
      );
      model.mergeLoRA();
      await model.save(folder);
      model.unmergeLoRA();
      const merged = await LlamaForCausalLM.fromPretrained(folder);
      expectClose(logitsOf(merged), adapterLogits);
      expect(adapted(merged)).toEqual([]);
      model.dispose();
      merged.dispose();
    }));

  type Entry = {name: string; dtype: 'F32'; shape: number[]; data: Uint8Array};
  const edit = (folder: string, change: (entries: Entry[]) => Entry[]) => {
    const path = join(folder, 'adapter_model.safetensors');
    const file = SafetensorsFile.open(path);
    const entries = [...file.names()].map((name) => ({
      name,
      dtype: 'F32' as const,
      shape: [...file.info(name).shape],
      data: Uint8Array.from(file.read(name)),
    }));
    file.close();
    return writeSafetensors(path, change(entries));
  };
  const configure = async (folder: string, change: object) => {
    const path = join(folder, 'adapter_config.json');
    await writeFile(path, JSON.stringify({...JSON.parse(await readFile(path, 'utf8')), ...change}));
  };

  test('does not change the model on any error, weights and trained adapters included', () =>
    inFolder(async (good) => {
      const source = tinyLlama();
      source.applyLoRA({rank: 2, targetModules: ['q_proj', 'up_proj']});
      await source.saveAdapter(good);
      source.dispose();

      const model = tinyLlama();
      model.applyLoRA({rank: 1, adapterName: 'mine', targetModules: ['q_proj']});
      stirAdapter(model, 'mine');
      model.setAdapter({mine: 0.5});
      const state = () => ({
        logits: logitsOf(model),
        trained: trained(model),
        names: model.adapterNames,
        active: model.activeAdapters,
        tensors: tf.memory().numTensors,
      });
      const before = state();
      const cases: [string, (folder: string) => unknown, string, string][] = [
        [
          'missing key',
          (folder) => edit(folder, (all) => all.slice(1)),
          'MISSING_TENSOR',
          'got none of that name',
        ],
        [
          'unexpected key',
          (folder) => edit(folder, (all) => [...all, {...all[0], name: 'extra'}]),
          'UNEXPECTED_TENSOR',
          'tensor extra (',
        ],
        [
          'wrong shape',
          (folder) =>
            edit(folder, ([first, ...rest]) => [
              {...first, shape: [first.shape[1], first.shape[0]]},
              ...rest,
            ]),
          'SHAPE_MISMATCH',
          'The adapter was made for another model',
        ],
        [
          'NaN in the last tensor',
          (folder) =>
            edit(folder, (all) => {
              new Float32Array(all.at(-1)!.data.buffer).fill(Number.NaN);
              return all;
            }),
          'NON_FINITE',
          'got NaN or infinity at element 0',
        ],
        [
          'another rank',
          (folder) => configure(folder, {r: 1}),
          'SHAPE_MISMATCH',
          'expected [1, 8], got [2, 8]',
        ],
        [
          'another method',
          (folder) => configure(folder, {peft_type: 'IA3'}),
          'UNSUPPORTED',
          'expected "LORA", got "IA3"',
        ],
        [
          'trained tokens',
          (folder) => configure(folder, {trainable_token_indices: [1]}),
          'MISSING_TENSOR',
          'expected tensor base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta',
        ],
        [
          'no targets',
          (folder) => configure(folder, {target_modules: null}),
          'INVALID_CONFIG',
          'target_modules',
        ],
        [
          'a rank of text',
          (folder) => configure(folder, {r: '2'}),
          'INVALID_CONFIG',
          'r: expected a number, got "2"',
        ],
        [
          'a target of another model',
          (folder) => configure(folder, {target_modules: ['c_attn']}),
          'UNKNOWN_TARGET',
          'LoRA target c_attn',
        ],
        [
          'no JSON',
          (folder) => writeFile(join(folder, 'adapter_config.json'), '{'),
          'CORRUPT_FILE',
          'adapter_config.json',
        ],
        [
          'no weights',
          (folder) => writeFile(join(folder, 'adapter_model.safetensors'), ''),
          'CORRUPT_FILE',
          'adapter_model.safetensors',
        ],
      ];
      for (const [, change, code, message] of cases) {
        await inFolder(async (folder) => {
          await cp(good, folder, {recursive: true});
          await change(folder);
          const error = await errorOf(() => model.loadAdapter(folder));
          expect(error.code).toBe(code);
          expect(error.message).toContain(message);
          expect(state()).toEqual(before);
        });
      }
      expect((await errorOf(() => model.loadAdapter('/no/such'))).code).toBe('FILE_NOT_FOUND');
      expect((await errorOf(() => model.loadAdapter(good, {adapterName: 'mine'}))).message).toContain(
        'expected a new name',
      );
      expect(state()).toEqual(before);
      model.dispose();

      // A model that trains in full continues to do so.
      const whole = tinyLlama();
      const all = trained(whole);
      await inFolder(async (folder) => {
        await cp(good, folder, {recursive: true});
        await edit(folder, (entries) => entries.slice(1));
        expect((await errorOf(() => whole.loadAdapter(folder))).code).toBe('MISSING_TENSOR');
      });
      expect(trained(whole)).toEqual(all);
      expect(whole.trainableWeights).toHaveLength(all.length);
      whole.dispose();
    }));

  test('refuses to save when it is unclear which one', () =>
    inFolder(async (folder) => {
      const model = tinyLlama();
      expect((await errorOf(() => model.saveAdapter(folder))).code).toBe('UNKNOWN_ADAPTER');
      model
        .applyLoRA({rank: 1, adapterName: 'a'})
        .applyLoRA({rank: 1, adapterName: 'b'})
        .setAdapter(['a', 'b']);
      expect((await errorOf(() => model.saveAdapter(folder))).message).toContain('Name the one');
      await model.saveAdapter(folder, 'a');
      expect((await errorOf(() => model.saveAdapter(folder, 'c'))).code).toBe('UNKNOWN_ADAPTER');
      model.dispose();
    }));
});
