import {join, resolve} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {LlamaForCausalLM} from '../../../models/llama/llama.ts';
import type {CombinationType, CombineAdaptersOptions} from '../../../models/peft/combineAdapters.ts';
import type {MajoritySign} from '../../../models/peft/taskArithmetic.ts';
import {describeEachBackend} from '../../describeEachBackend.ts';
import {errorOf} from '../../models/tinyLlama.ts';
import {FIXTURES, readGoldens, readJson} from '../golden.ts';

interface Case {
  name: string;
  weights: Record<string, number>;
  combination_type: CombinationType;
  density?: number;
  svd_rank?: number;
  svd_clamp?: number;
  majority_sign_method?: MajoritySign;
}

const FOLDER = resolve('test/parity/combining/fixtures');
const cases = readJson<Case[]>('../combining/fixtures/cases.json');
const updates = readGoldens(join(FOLDER, 'updates.safetensors'));

describeEachBackend('combineAdapters equals add_weighted_adapter of PEFT', () => {
  let model: LlamaForCausalLM;
  let tensorsBefore: number;
  beforeAll(async () => {
    tensorsBefore = tf.memory().numTensors;
    model = await LlamaForCausalLM.fromPretrained(join(FIXTURES, 'models/tied-gqa-llama3'));
    for (const name of ['a', 'b', 'c']) await model.loadAdapter(join(FOLDER, name), {adapterName: name});
  });
  afterAll(() => {
    model.dispose();
    expect(tf.memory().numTensors).toBe(tensorsBefore);
  });

  /** The update of an adapter in a layer, with its scale, `[units, inputDim]`. */
  async function updateOf(adapterName: string, layer: string): Promise<Float32Array> {
    const adapter = model.adaptedLayers().get(layer)!.adapter(adapterName);
    const product = tf.tidy(() => {
      const {a, b} = adapter.factors();
      return tf.mul(tf.matMul(b, a), adapter.scaling);
    });
    const values = (await product.data()) as Float32Array;
    product.dispose();
    return values;
  }

  async function combine(weights: Record<string, number>, options: CombineAdaptersOptions): Promise<void> {
    await model.combineAdapters(weights, {adapterName: 'combined', ...options});
  }

  test.each(cases)('$name', async ({name, weights, ...options}) => {
    const before = tf.memory().numTensors;
    const {combination_type, density, svd_rank, svd_clamp, majority_sign_method} = options;
    await combine(weights, {
      combinationType: combination_type,
      density,
      svdRank: svd_rank,
      svdClamp: svd_clamp,
      majoritySign: majority_sign_method,
    });
    expect(model.activeAdapters).toEqual(['combined']);
    expect(model.trainableParameters().size).toBe(0);
    let compared = 0;
    for (const [key, {values: expected}] of updates) {
      if (!key.startsWith(`${name}:`)) continue;
      const actual = await updateOf('combined', key.slice(name.length + 1));
      const largest = Math.max(...expected.map(Math.abs));
      const difference = Math.max(...expected.map((value, i) => Math.abs(value - actual[i])));
      expect(difference / largest).toBeLessThan(1e-5);
      compared++;
    }
    expect(compared).toBe(2);
    model.deleteAdapter('combined');
    expect(tf.memory().numTensors).toBe(before);
  });

  test('a layer that only some adapters have gets what these have', async () => {
    await combine({a: 1, c: 2}, {combinationType: 'cat'});
    const {settings} = model.adaptedLayers().get('model.layers.0.self_attn.v_proj')!.adapter('combined');
    expect([settings.rank, settings.alpha]).toEqual([6, 6]);
    const last = 'model.layers.1.self_attn.v_proj';
    expect(model.adaptedLayers().get(last)!.adapter('combined').settings.rank).toBe(4);
    const [combined, own] = [await updateOf('combined', last), await updateOf('a', last)];
    expect(Math.max(...own.map((value, i) => Math.abs(value - combined[i])))).toBeLessThan(1e-6);
    model.deleteAdapter('combined');
  });

  test('a combination is saved and loads like any adapter', async () => {
    await combine({a: 1, c: 2}, {combinationType: 'cat'});
    const files = new Map<string, Blob>();
    await model.saveAdapter(files, 'combined');
    const layer = 'model.layers.0.self_attn.q_proj';
    const before = await updateOf('combined', layer);
    await model.loadAdapter(files, {adapterName: 'loaded'});
    expect(await updateOf('loaded', layer)).toEqual(before);
    for (const name of ['combined', 'loaded']) model.deleteAdapter(name);
  });

  test('DARE keeps a share of the elements and divides them by it, the same for the same seed', async () => {
    const layer = 'model.layers.0.self_attn.q_proj';
    const matrixOf = async (options: CombineAdaptersOptions) => {
      await combine({a: 1, b: 0}, {combinationType: 'dare_linear', ...options});
      const {loraA} = model.adaptedLayers().get(layer)!.adapter('combined');
      const values = Float32Array.from((await loraA.read().data()) as Float32Array);
      model.deleteAdapter('combined');
      return values;
    };
    const [all, half, again, other] = [
      await matrixOf({density: 1}),
      await matrixOf({density: 0.5}),
      await matrixOf({density: 0.5}),
      await matrixOf({density: 0.5, seed: 1}),
    ];
    const kept = half.filter((value) => value !== 0).length / half.length;
    expect(Math.abs(kept - 0.5)).toBeLessThan(0.15);
    for (const [i, value] of half.entries()) if (value !== 0) expect(value / all[i]).toBeCloseTo(2, 5);
    expect(again).toEqual(half);
    expect(other).not.toEqual(half);
  });

  test.each<[string, Record<string, number>, CombineAdaptersOptions, string]>([
    ['no adapter', {}, {}, 'combineAdapters weights: expected a weight for each adapter'],
    ['an unknown adapter', {a: 1, d: 1}, {}, 'adapter "d": expected one of a, b, c'],
    ['a weight', {a: Number.NaN, b: 1}, {}, 'weight of "a": expected a number, got NaN'],
    ['a name that exists', {a: 1, b: 1}, {adapterName: 'c'}, 'adapter "c": expected a new name'],
    ['a type', {a: 1, b: 1}, {combinationType: 'sum' as 'cat'}, 'combinationType: expected cat, svd, linear'],
    [
      'a missing density',
      {a: 1, b: 1},
      {combinationType: 'ties'},
      'density for ties: expected a number above 0',
    ],
    ['a density of 0', {a: 1, b: 1}, {combinationType: 'dare_ties', density: 0}, 'density for dare_ties'],
    [
      'a sign method',
      {a: 1, b: 1},
      {majoritySign: 'mean' as 'total'},
      'majoritySign: expected total or frequency',
    ],
    ['a rank', {a: 1, b: 1}, {svdRank: 0}, 'svdRank: expected a positive integer, got 0'],
    ['a share', {a: 1, b: 1}, {svdClamp: 1.5}, 'svdClamp: expected a number from 0 to 1, got 1.5'],
    ['a share without a bound', {a: 1, b: 1}, {svdClamp: 0.1}, 'svdClamp of model.layers.0.'],
    [
      'a clamp without singular values',
      {a: 1, b: 1},
      {combinationType: 'cat', svdClamp: 0.9},
      'svdClamp with cat: expected none, got 0.9',
    ],
    [
      'unequal ranks',
      {a: 1, c: 1},
      {combinationType: 'linear'},
      'expected adapters of equal rank, got 4 and 2',
    ],
  ])('refuses %s, and changes nothing', async (_, weights, options, message) => {
    const before = tf.memory().numTensors;
    expect((await errorOf(() => combine(weights, options)))?.message).toContain(message);
    expect(model.adapterNames).toEqual(['a', 'b', 'c']);
    expect(tf.memory().numTensors).toBe(before);
  });

  test('refuses DoRA, and stops at a signal', async () => {
    model.applyLoRA({adapterName: 'dora', useDoRA: true, rank: 2});
    const error = await errorOf(() => combine({a: 1, dora: 1}, {}));
    expect(error?.message).toContain(
      '"dora" of model.layers.0.self_attn.q_proj: expected a LoRA without other weights',
    );
    model.deleteAdapter('dora');
    const signal = AbortSignal.abort(new Error('enough'));
    await expect(combine({a: 1}, {signal})).rejects.toThrow('enough');
  });
});
