import * as tf from '@tensorflow/tfjs';
import {generateIds} from '../../../models/generation/generate.ts';
import {nextTask} from '../../../models/nextTask.ts';
import {AsyncLocalStorage} from '../../../src/tools/browser/noDisk.ts';
import {Llama} from '../../../src/training/llama.ts';
import {AdamW} from '../../../src/training/optimizers/index.ts';
import {errorOf, logitsOf, stirAdapter, tinyConfig, tinyIds, tinyLlama} from '../tinyLlama.ts';

beforeAll(() => tf.setBackend('cpu'));

/** A model with the adapter `a` in q_proj and v_proj, and `b`, which is active, in q_proj and lm_head. */
function twoAdapters() {
  const model = tinyLlama({tieWordEmbeddings: false}, {seed: 1});
  model.applyLoRA({adapterName: 'a', rank: 2, targetModules: ['q_proj', 'v_proj'], rankPattern: {v_proj: 1}});
  model.applyLoRA({
    adapterName: 'b',
    rank: 2,
    useDoRA: true,
    targetModules: ['q_proj'],
    modulesToSave: ['lm_head'],
  });
  stirAdapter(model, 'a', 1);
  stirAdapter(model, 'b', 9);
  return model;
}

describe('adapterStatus', () => {
  test('says which adapters exist, which are active, merged and trained, and what they are made of', () => {
    const model = twoAdapters();
    const {adapters, layers, total, trainable} = model.adapterStatus();
    const common = {peftType: 'LORA', isMerged: false, dtypes: ['float32']};
    const ofB = 2 * (2 * 8 + 8 * 2 + 8) + 19 * 8; // A, B and magnitudes of both blocks, and a head
    expect(adapters).toEqual([
      {
        ...common,
        ...{name: 'a', isActive: false, isTrainable: false, ranks: [1, 2], layers: 4},
        ...{total: 2 * (2 * 8 + 8 * 2 + 8 + 4), trainable: 0},
      },
      {
        ...common,
        ...{name: 'b', isActive: true, isTrainable: true, ranks: [2], layers: 3},
        ...{total: ofB, trainable: ofB},
      },
    ]);
    expect([total, trainable]).toEqual([model.countParams(), ofB]);
    expect(layers.map(({name}) => name)).toEqual([...model.layersWithAdapters().keys()]);
    expect(layers.find(({name}) => name === 'model.layers.0.self_attn.q_proj')).toEqual({
      name: 'model.layers.0.self_attn.q_proj',
      className: 'LoRADense',
      dtypes: ['float32'],
      activeAdapters: ['b'],
      mergedAdapters: [],
      adapters: {
        a: {rank: 2, isTrainable: false, total: 32, trainable: 0},
        b: {rank: 2, isTrainable: true, total: 40, trainable: 40},
      },
    });
    expect(layers.at(-1)).toMatchObject({
      className: 'CopiedLayer',
      adapters: {b: {isTrainable: true, total: 152, trainable: 152}},
    });
    model.dispose();
  });

  test('says what is merged, what differs between layers, and how the base is stored', async () => {
    const model = twoAdapters().setAdapter('a');
    await model.quantize({type: 'nf4', skipModules: ['v_proj', 'lm_head']});
    const [first, second] = model.adaptedLayers().values();
    first.adapter('a').loraB.trainable = false;
    second.merge();
    const {adapters, layers} = model.adapterStatus();
    expect(adapters[0]).toMatchObject({isMerged: 'irregular', isTrainable: 'irregular'});
    expect(layers.map(({dtypes}) => dtypes[0])).toEqual(['nf4', 'float32', 'nf4', 'float32', 'float32']);
    expect(layers.map(({mergedAdapters}) => mergedAdapters)).toEqual([[], ['a'], [], [], []]);
    const lines: string[] = [];
    model.mergeLoRA({dequantize: true}).adapterSummary(undefined, undefined, (line) => lines.push(line));
    expect(lines.slice(2, 6)).toEqual([
      'Adapter (type)                State                   Ranks       Layers   Param #      Trainable #',
      '='.repeat(100),
      'a (LORA)                      active, merged          1, 2        4        88           72',
      'b (LORA)                      inactive                2           3        232          0',
    ]);
    model.dispose();
    expect((await errorOf(() => model.adapterStatus())).code).toBe('DISPOSED');
  });
});

test('a tied head has the type of the table that it shares', async () => {
  const model = tinyLlama({tieWordEmbeddings: true}, {seed: 1}).applyLoRA({
    rank: 2,
    targetModules: ['lm_head'],
  });
  expect(model.adapterStatus().layers.map(({dtypes}) => dtypes)).toEqual([['float32']]);
  model.dispose();
});

describe('renameAdapter', () => {
  test('gives an adapter another name in memory and in files, and changes nothing else', async () => {
    const model = twoAdapters();
    const [before, tensors] = [logitsOf(model), tf.memory().numTensors];
    const names = [...model.namedParameters().keys()];
    expect(model.renameAdapter('b', 'c').adapterNames).toEqual(['a', 'c']);
    expect(model.activeAdapters).toEqual(['c']);
    expect(model.adapterOptions('c')).toMatchObject({adapterName: 'c', useDoRA: true});
    expect([...model.namedParameters().keys()]).toEqual(
      names.map((name) => name.replace(/\.b(?=\.|$)/, '.c')),
    );
    const weight = model.namedParameters().get('model.layers.0.self_attn.q_proj.lora_A.c.weight')!;
    expect(weight.originalName).toContain('q_proj.lora_A.c');
    expect([logitsOf(model), tf.memory().numTensors]).toEqual([before, tensors]);
    expect((await errorOf(() => model.setAdapter('b'))).code).toBe('UNKNOWN_ADAPTER');
    const files = new Map<string, Blob>();
    await model.saveAdapter(files);
    await model.loadAdapter(files, {adapterName: 'b'});
    expect(logitsOf(model)).toEqual(before);
    model.setAdapter('a');
    model.deleteAdapter('c').deleteAdapter('b');
    expect([...model.namedParameters().keys()].some((name) => /\.[bc]\./.test(name))).toBe(false);
    model.dispose();
  });

  test('renames an adapter that is merged, and rows that are prepared', async () => {
    const model = twoAdapters();
    const before = logitsOf(model);
    const rows = model.rowAdapters(['a', '__base__']);
    model.renameAdapter('a', 'default');
    expect((await errorOf(() => rows.run(() => 0))).code).toBe('UNKNOWN_ADAPTER');
    rows.dispose();
    const merged = logitsOf(model.mergeLoRA());
    model.renameAdapter('b', 'a');
    expect(logitsOf(model)).toEqual(merged);
    expect(logitsOf(model.unmergeLoRA())).toEqual(before);
    expect(model.activeAdapters).toEqual(['a']);
    expect(model.trainableParameters().size).toBe(7);
    model.dispose();
  });

  test('an adapter that is renamed or deleted while others compute stays so afterwards', () => {
    const model = twoAdapters();
    const before = logitsOf(model);
    model.withAdapters('a', () => model.renameAdapter('b', 'c'));
    expect(model.activeAdapters).toEqual(['c']);
    expect(logitsOf(model)).toEqual(before);
    const base = model.withoutAdapter(() => logitsOf(model));
    model.withAdapters('a', () => model.deleteAdapter('c'));
    expect(model.activeAdapters).toEqual([]);
    expect(logitsOf(model)).toEqual(base);
    model.dispose();
  });

  test('adapters are added and activated outside withAdapters, which restores the active ones', async () => {
    const model = twoAdapters();
    const before = model.adapterStatus();
    for (const change of [() => model.setAdapter('a'), () => model.applyLoRA({adapterName: 'c', rank: 1})])
      expect(await errorOf(() => model.withAdapters('a', change))).toMatchObject({code: 'UNSUPPORTED'});
    expect(model.adapterStatus()).toEqual(before);
    model.setAdapter('a').mergeLoRA();
    model.withoutAdapter(() => model.deleteAdapter('a'));
    expect(model.adapterNames).toEqual(['b']);
    model.dispose();
  });

  test.each(['node', 'a browser'])('refuses what runs beside other adapters, in %s', async (where) => {
    const model = twoAdapters();
    if (where === 'a browser') Object.assign(model['adapterSet'], {ownCall: new AsyncLocalStorage()});
    const compute = () => logitsOf(model);
    const expected = {
      active: compute(),
      a: model.withAdapters('a', compute),
      base: model.withoutAdapter(compute),
    };
    const beside = {code: 'UNSUPPORTED', message: expect.stringContaining('got one beside it')};
    let end = () => {};
    const ended = new Promise<void>((resolve) => {
      end = resolve;
    });
    const generation = errorOf(() => generateIds(model, [1, 2], {maxNewTokens: 2})); // begins before the other adapters
    const own = model.withAdapters('a', async () => {
      expect(compute()).toEqual(expected.a);
      expect(model.withoutAdapter(compute)).toEqual(expected.base);
      await ended;
      return where === 'node'
        ? [compute(), await model.withoutAdapter(async () => compute())]
        : errorOf(compute);
    });
    for (const call of [
      () => model.withAdapters('b', async () => {}),
      () => model.withoutAdapter(compute),
      compute,
      () => model.forward(tf.tensor2d([[1, 2]], undefined, 'int32')),
      () => model.lossSum({inputIds: [[1, 2]], labels: [[1, 2]]}),
      () => model.mergeLoRA(),
      () => model.setAdapter('a'),
    ])
      expect(await errorOf(call)).toEqual(beside);
    expect(await generation).toEqual(beside);
    const rows = model.predict(tinyIds, {adapterNames: 'b'});
    expect(rows.dataSync()).toEqual(expected.active);
    end();
    expect(await own).toEqual(where === 'node' ? [expected.a, expected.base] : beside);
    expect(compute()).toEqual(expected.active);
    model.dispose();
  });

  test('refuses what goes on after the call with other adapters has ended', async () => {
    const model = twoAdapters();
    const active = logitsOf(model);
    const late: Promise<unknown>[] = [];
    const soon = async () => {
      await Promise.resolve();
      return logitsOf(model);
    };
    model.withAdapters('a', () => void late.push(errorOf(soon)));
    await nextTask();
    await model.withAdapters(
      'a',
      async () => void late.push(errorOf(() => model.withoutAdapter(() => nextTask().then(soon)))),
    );
    await nextTask();
    expect(logitsOf(model)).toEqual(active);
    for (const error of await Promise.all(late))
      expect(error).toEqual({code: 'UNSUPPORTED', message: expect.stringContaining('after it ended')});
    expect(logitsOf(model)).toEqual(active);
    for (const returned of [() => model.stream([1, 2]), async () => model.stream([1, 2])])
      expect(await errorOf(() => model.withAdapters('a', returned as () => unknown))).toMatchObject({
        code: 'UNSUPPORTED',
        message: expect.stringContaining('got one that returns it'),
      });
    model.dispose();
  });

  test('prepared rows refuse another adapter that has their name now', async () => {
    const model = twoAdapters().deleteAdapter('b').applyLoRA({adapterName: 'b', rank: 2});
    const rows = model.rowAdapters(['a', 'b']);
    model.renameAdapter('a', 'c').renameAdapter('b', 'a').renameAdapter('c', 'b');
    expect(await errorOf(() => rows.run(() => 0))).toEqual({
      code: 'UNKNOWN_ADAPTER',
      message:
        'adapter "a": expected the one that the rows were prepared with, got another. Prepare them again.',
    });
    rows.dispose();
    model.dispose();
  });

  test('a combination of adapters does not change with their names', async () => {
    const [one, other] = [1, 1].map(() =>
      twoAdapters().deleteAdapter('b').applyLoRA({adapterName: 'b', rank: 2}),
    );
    for (const [model, renames] of [
      [one, false],
      [other, true],
    ] as const) {
      stirAdapter(model, 'b', 9);
      const onProgress = () =>
        void (renames && model.adapterNames.includes('b') && model.renameAdapter('b', 'z'));
      await model.combineAdapters({a: 1, b: 1}, {adapterName: 'both', combinationType: 'cat', onProgress});
    }
    expect(logitsOf(other)).toEqual(logitsOf(one));
    for (const model of [one, other]) model.dispose();
  });

  test('keeps the state of an optimizer', async () => {
    const batch = {inputIds: [[1, 2, 3]], labels: [[1, 2, 3]]};
    const losses = [false, true].map(async (renames) => {
      const model = Llama.fromConfig({...tinyConfig}, {seed: 1});
      model.applyLoRA({rank: 2});
      model.compile({optimizer: new AdamW({learningRate: 1e-1})});
      await model.trainOnBatch(batch);
      if (renames) model.renameAdapter('default', 'other');
      await model.trainOnBatch(batch);
      const {loss} = await model.trainOnBatch(batch);
      model.dispose();
      return loss;
    });
    expect(await losses[1]).toBe(await losses[0]);
  });

  test.each([
    ['a', 'b', 'adapter "b": expected a new name, got one that exists'],
    ['a', 'a', 'adapter "a": expected a new name, got one that exists'],
    ['a', 'x y', 'adapter name "x y": expected letters'],
    ['a', '__base__', 'adapter name "__base__": expected letters'],
    ['a', 5 as unknown as string, 'adapter name 5: expected letters'],
    ['d', 'c', 'adapter "d": expected one of a, b'],
  ])('refuses to rename %s to %s', async (name, newName, message) => {
    const model = twoAdapters();
    expect((await errorOf(() => model.renameAdapter(name, newName))).message).toContain(message);
    expect(model.adapterNames).toEqual(['a', 'b']);
    model.dispose();
  });
});
