import * as tf from '@tensorflow/tfjs';
import type {LlamaForCausalLM} from '../../../models/llama/llama.ts';
import type {LoRAOptions} from '../../../models/peft/loraOptions.ts';
import {describeEachBackend} from '../../describeEachBackend.ts';
import {expectClose} from '../../expectClose.ts';
import {errorOf, logitsOf, stirAdapter, tinyLlama} from '../tinyLlama.ts';

describeEachBackend('hotswapAdapter', () => {
  let tensorsBefore: number;
  let model: LlamaForCausalLM;
  beforeEach(() => {
    tensorsBefore = tf.memory().numTensors;
    model = tinyLlama();
  });
  afterEach(() => {
    model.dispose();
    expect(tf.memory().numTensors).toBe(tensorsBefore);
  });

  /** Makes the files of an adapter, and what the model computes with it. */
  async function adapterFiles(options: LoRAOptions, seed: number) {
    model.applyLoRA({...options, adapterName: 'made'});
    stirAdapter(model, 'made', seed);
    const files = new Map<string, Blob>();
    await model.saveAdapter(files, 'made');
    const logits = logitsOf(model);
    model.deleteAdapter('made');
    return {files, logits};
  }

  const contents = async (files: Map<string, Blob>) =>
    Object.fromEntries(
      await Promise.all([...files].map(async ([name, blob]) => [name, await blob.text()] as const)),
    );

  test('puts new weights, alpha and kind of scale into the memory of the old ones', async () => {
    const first = await adapterFiles({rank: 2, alpha: 4}, 1);
    const second = await adapterFiles({rank: 2, alpha: 3, useRsLoRA: true, seed: 5}, 20);
    await model.loadAdapter(first.files, {trainable: true});
    const ids = [...model.trainableParameters().values()].map(({id}) => id);
    const {numTensors} = tf.memory();
    await model.hotswapAdapter(second.files);
    expect(logitsOf(model)).toEqual(second.logits);
    expect([...model.trainableParameters().values()].map(({id}) => id)).toEqual(ids);
    expect(model.adapterOptions()).toMatchObject({alpha: 3, useRsLoRA: true});
    expect(tf.memory().numTensors).toBe(numTensors);
    const saved = new Map<string, Blob>();
    await model.saveAdapter(saved);
    expect(await contents(saved)).toEqual(await contents(second.files));
    await model.hotswapAdapter(first.files, {adapterName: 'default'});
    expect(logitsOf(model)).toEqual(first.logits);
  });

  test('takes smaller ranks and fewer layers, and larger ones after padding', async () => {
    const first = await adapterFiles({rank: 2, alpha: 4}, 1);
    const larger = await adapterFiles({rank: 3, alpha: 5, useRsLoRA: true}, 20);
    const smaller = await adapterFiles({rank: 1, alpha: 5, targetModules: ['q_proj', 'up_proj']}, 40);
    await model.loadAdapter(first.files);
    const tooLarge = await errorOf(() => model.hotswapAdapter(larger.files));
    expect(tooLarge.code).toBe('INVALID_ARGUMENT');
    expect(tooLarge.message).toMatch(
      /lora_A.weight .*: expected a rank up to 2, got 3. Call prepareHotswap\(\{targetRank: 3\}\)/,
    );
    expect(logitsOf(model)).toEqual(first.logits);
    await model.hotswapAdapter(smaller.files);
    expectClose(logitsOf(model), smaller.logits);
    await model.hotswapAdapter(first.files);
    expect(logitsOf(model)).toEqual(first.logits);

    model.prepareHotswap({targetRank: 4});
    expectClose(logitsOf(model), first.logits);
    for (const {files, logits} of [larger, smaller, first, larger]) {
      await model.hotswapAdapter(files);
      expectClose(logitsOf(model), logits);
      const saved = new Map<string, Blob>();
      await model.saveAdapter(saved);
      const before = logitsOf(model);
      await model.loadAdapter(saved, {adapterName: 'again'});
      expect(logitsOf(model)).toEqual(before);
      model.deleteAdapter('again').setAdapter('default');
    }
    expect(await errorOf(() => model.prepareHotswap({targetRank: 3}))).toMatchObject({
      code: 'INVALID_ARGUMENT',
    });
  });

  test('refuses what does not fit by name, and then changes nothing', async () => {
    const first = await adapterFiles({rank: 2, targetModules: ['q_proj', 'v_proj']}, 1);
    const others: [string, LoRAOptions, string, RegExp][] = [
      [
        'more layers',
        {rank: 2},
        'UNEXPECTED_TENSOR',
        /_proj\.lora_A\.weight .*expected only weights that the replaced adapter has/,
      ],
      ['DoRA', {rank: 2, useDoRA: true}, 'UNSUPPORTED', /useDoRA: expected false, as in "default", got true/],
      [
        'a copied layer',
        {rank: 2, targetModules: ['q_proj'], modulesToSave: ['norm']},
        'UNEXPECTED_TENSOR',
        /norm/,
      ],
    ];
    const files = new Map<string, Map<string, Blob>>();
    for (const [what, options] of others) files.set(what, (await adapterFiles(options, 7)).files);
    await model.loadAdapter(first.files);
    for (const [what, , code, message] of others) {
      const error = await errorOf(() => model.hotswapAdapter(files.get(what)!));
      expect([what, error.code]).toEqual([what, code]);
      expect(error.message).toMatch(message);
    }
    expect((await errorOf(() => model.hotswapAdapter(first.files, {adapterName: 'x'}))).code).toBe(
      'UNKNOWN_ADAPTER',
    );
    expect(logitsOf(model)).toEqual(first.logits);
    model.mergeLoRA();
    expect((await errorOf(() => model.hotswapAdapter(first.files))).code).toBe('INVALID_ARGUMENT');
    model.unmergeLoRA();
    model.busyWith = 'fitDataset';
    expect((await errorOf(() => model.hotswapAdapter(first.files))).code).toBe('UNSUPPORTED');
    model.busyWith = undefined;
    model.deleteAdapter('default').applyLoRA({rank: 2, modulesToSave: ['norm']});
    expect((await errorOf(() => model.hotswapAdapter(first.files))).message).toMatch(
      /low-rank matrices alone, got .*norm/,
    );
  });
});
