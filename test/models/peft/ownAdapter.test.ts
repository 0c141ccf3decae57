import {readFile, writeFile} from 'node:fs/promises';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {LoRAAdapter} from '../../../layers/loraAdapter.ts';
import {LoRADense} from '../../../layers/loraDense.ts';
import {type FieldValues, LORA_FIELDS, type LoRAFields} from '../../../layers/loraFields.ts';
import {Parameter} from '../../../layers/parameter.ts';
import type {LlamaForCausalLM} from '../../../models/llama/llama.ts';
import {peftTypes, registerAdapter} from '../../../models/peft/adapterRegistry.ts';
import {SafetensorsFile} from '../../../quant/safetensors/safetensorsFile.ts';
import {applyLoRA, loadAdapter, saveAdapter} from '../../../src/index.ts';
import {describeEachBackend} from '../../describeEachBackend.ts';
import {errorOf, inFolder, logitsOf, tinyIds, tinyLlama} from '../tinyLlama.ts';

const FIELDS = {
  rank: LORA_FIELDS.rank,
  dropout: LORA_FIELDS.dropout,
  firstGain: {kind: 'number', peftKey: 'first_gain', default: 0, limits: ['a number', Number.isFinite]},
  gainSeed: {kind: 'number', peftKey: 'gain_seed', default: 3},
} as const satisfies LoRAFields;

/** Random, frozen A and B with a trained gain between them. */
class GainAdapter extends LoRAAdapter {
  static override readonly fields = FIELDS;
  static override readonly peftType: string = 'TEST_GAIN';
  static alive = 0;
  readonly gain: Parameter;

  constructor(
    name: string,
    where: string,
    [units, inputDim]: [number, number],
    args: FieldValues<typeof FIELDS> & {rank: number},
    rowNorms: () => tf.Tensor,
  ) {
    const {rank, gainSeed: seed = 3} = args;
    const frozen = (shape: number[]) =>
      new Parameter({
        name: `${where}.frozen`,
        shape,
        trainable: false,
        initialize: () => tf.randomNormal(shape, 0, 1, 'float32', seed),
      });
    super(name, where, [units, inputDim], args, rowNorms, () => ({
      loraA: frozen([rank, inputDim]),
      loraB: frozen([units, rank]),
    }));
    this.gain = new Parameter({
      name: `${where}.gain.${name}`,
      shape: [rank],
      initialize: () => tf.fill([rank], args.firstGain ?? 0),
    });
    GainAdapter.alive++;
  }

  override get scaling(): number {
    return this.weight;
  }

  override get parameters(): Map<string, Parameter> {
    return new Map([['gain', this.gain]]);
  }

  override factors() {
    const {a, b} = super.factors();
    return {a: tf.mul(a, tf.expandDims(this.gain.read(), 1)) as tf.Tensor2D, b};
  }

  override dispose(): void {
    super.dispose();
    this.loraA.dispose();
    this.loraB.dispose();
    GainAdapter.alive--;
  }
}

class GainDense extends LoRADense {
  static override className = 'TestGainDense';
  static override readonly adapterClass = GainAdapter;
  static override get optionNames() {
    return super.optionNames;
  }
}
tf.serialization.registerClass(GainDense);

/** LoRA-FA: A is frozen, and the files are LoRA's. */
class FrozenAAdapter extends LoRAAdapter {
  constructor(...args: ConstructorParameters<typeof LoRAAdapter>) {
    super(...args);
    this.loraA.trainable = false;
  }
}
class FrozenADense extends LoRADense {
  static override className = 'TestFrozenADense';
  static override readonly adapterClass = FrozenAAdapter;
}

/** Weights of its own under LoRA's type. */
class Nameless extends GainAdapter {
  static override readonly peftType = 'LORA';
}
class NamelessDense extends GainDense {
  static override className = 'TestNamelessDense';
  static override readonly adapterClass = Nameless;
}

const PREFIX = 'base_model.model.model.layers';
const targets = {targetModules: ['q_proj', 'up_proj'], rank: 2};
const gains = (suffix = '') =>
  [0, 1].flatMap((block) =>
    ['self_attn.q_proj', 'mlp.up_proj'].map((name) => `${PREFIX}.${block}.${name}.gain${suffix}`),
  );
const trained = (model: LlamaForCausalLM) => [...model.trainableParameters().keys()];
const differences = (a: Float32Array, b: Float32Array) =>
  Math.max(...a.map((value, i) => Math.abs(value - b[i])));

describe('before it is registered', () => {
  test('a kind of adapter is refused by name', async () => {
    await inFolder(async (folder) => {
      await writeFile(join(folder, 'adapter_config.json'), JSON.stringify({peft_type: 'TEST_GAIN'}));
      const model = tinyLlama();
      expect(await errorOf(() => model.loadAdapter(folder))).toEqual({
        code: 'UNSUPPORTED',
        message:
          `${join(folder, 'adapter_config.json')} peft_type: expected "LORA", got "TEST_GAIN". ` +
          'Add others with registerAdapter.',
      });
      model.dispose();
    });
  });

  test('a type that is taken is refused', () => {
    expect(() => registerAdapter(FrozenADense)).toThrow(
      'registerAdapter peftType: expected a new name, got "LORA", with LORA taken.',
    );
    registerAdapter(GainDense);
    registerAdapter(GainDense); // the same again, as in a notebook's cell
    expect(peftTypes()).toEqual(['LORA', 'TEST_GAIN']);
  });
});

describeEachBackend('an adapter class of one’s own', () => {
  let model: LlamaForCausalLM;
  let before: number;
  beforeAll(() => registerAdapter(GainDense));
  beforeEach(() => {
    before = tf.memory().numTensors;
    model = tinyLlama();
  });
  afterEach(() => {
    model.dispose();
    expect(GainAdapter.alive).toBe(0);
    expect(tf.memory().numTensors).toBe(before);
  });

  test('trains its own weights, by its own settings', async () => {
    const plain = logitsOf(model);
    model.applyLoRA({...targets, layerClass: GainDense});
    expect(trained(model).sort()).toEqual(gains().sort());
    expect(logitsOf(model)).toEqual(plain); // the first gain is 0
    model.deleteAdapter('default');
    model.applyLoRA({...targets, layerClass: GainDense, firstGain: 0.5, adapterName: 'half'});
    expect(differences(logitsOf(model), plain)).toBeGreaterThan(0.01);
    const gradients = tf.tidy(
      () => tf.variableGrads(() => model.lossSum({inputIds: tinyIds, labels: tinyIds})).grads,
    );
    expect(Object.values(gradients).filter((gradient) => gradient.shape.join() === '2')).toHaveLength(4);
    for (const gradient of Object.values(gradients))
      expect([...gradient.dataSync()].every((value) => value === 0)).toBe(false);
    tf.dispose(gradients);
    model.applyLoRA({...targets, layerClass: GainDense, adapterName: 'second'});
    model.setAdapter(['half', 'second']);
    expect(trained(model).sort()).toEqual([...gains('.half'), ...gains('.second')].sort());
  });

  test('merges exactly, and takes no place among the weights of the model', async () => {
    model.applyLoRA({...targets, layerClass: GainDense, firstGain: 0.1});
    const adapted = logitsOf(model);
    model.mergeLoRA();
    expect(differences(logitsOf(model), adapted)).toBeLessThan(1e-4);
    await inFolder(async (folder) => {
      await model.save(folder);
      const file = SafetensorsFile.open(join(folder, 'model.safetensors'));
      expect(file.names().filter((name) => /gain|frozen/.test(name))).toEqual([]);
      file.close();
    });
  });

  test('is saved under its peft_type and loaded again', async () => {
    model.applyLoRA({...targets, layerClass: GainDense, firstGain: 0.25, gainSeed: 7});
    const adapted = logitsOf(model);
    await inFolder(async (folder) => {
      await model.saveAdapter(folder);
      const config = JSON.parse(await readFile(join(folder, 'adapter_config.json'), 'utf8'));
      expect(config).toMatchObject({peft_type: 'TEST_GAIN', r: 2, first_gain: 0.25, gain_seed: 7});
      expect(Object.keys(config)).not.toEqual(expect.arrayContaining(['lora_alpha']));
      expect(config).not.toHaveProperty('init_lora_weights');
      const again = tinyLlama();
      await again.loadAdapter(folder, {trainable: true});
      expect(logitsOf(again)).toEqual(adapted);
      expect(trained(again).sort()).toEqual(gains().sort());
      again.dispose();
      expect(await errorOf(() => model.loadAdapter(folder, {layerClass: LoRADense}))).toMatchObject({
        code: 'UNSUPPORTED',
        message: expect.stringContaining(
          'peft_type: expected "LORA" for layers of LoRADense, got "TEST_GAIN"',
        ),
      });
    });
  });

  test('loads LoRA’s files into a class of LoRA', async () => {
    model.applyLoRA(targets);
    await inFolder(async (folder) => {
      await model.saveAdapter(folder);
      const again = tinyLlama();
      await again.loadAdapter(folder, {trainable: true, layerClass: FrozenADense});
      expect(trained(again)).toHaveLength(4);
      for (const key of trained(again)) expect(key).toMatch(/lora_B\.weight$/);
      again.dispose();
    });
  });

  test('is kept by a saved Keras model, and by an adapter of one', async () => {
    const layer = tf.layers.dense({units: 3, inputShape: [4], name: 'head'});
    const base = tf.sequential({layers: [layer]});
    const adapted = applyLoRA(base, {rank: 2, layerClass: GainDense, firstGain: 0.5});
    const x = tf.randomNormal([5, 4], 0, 1, 'float32', 1);
    const outputOf = (one: tf.LayersModel) =>
      tf.tidy(() => (one.predict(x) as tf.Tensor).dataSync() as Float32Array);
    const copy = (await tf.models.modelFromJSON(adapted.toJSON(null, false) as never)) as tf.LayersModel;
    copy.setWeights(adapted.getWeights());
    expect(outputOf(copy)).toEqual(outputOf(adapted));
    await inFolder(async (folder) => {
      await saveAdapter(copy, folder);
      const again = await loadAdapter(base, folder);
      expect(outputOf(again)).toEqual(outputOf(adapted));
      again.dispose();
    });
    copy.dispose();
    adapted.dispose();
    base.dispose();
    x.dispose();
  });

  test('refuses settings that it does not have, and layers with another kind', async () => {
    const withAlpha = () => model.applyLoRA({...targets, layerClass: GainDense, alpha: 4});
    expect((await errorOf(withAlpha)).message).toContain(
      'applyLoRA alpha: expected some of rank, dropout, firstGain',
    );
    // @ts-expect-error: a number
    const withText = () => model.applyLoRA({...targets, layerClass: GainDense, firstGain: 'much'});
    expect((await errorOf(withText)).message).toContain('LoRA firstGain: expected a number');
    const args = {units: 4, name: 'gain', alpha: 4};
    expect((await errorOf(() => new GainDense(args as never))).message).toContain(
      'GainDense alpha: expected some of',
    );
    model.applyLoRA(targets);
    for (const layerClass of [GainDense, FrozenADense] as (typeof LoRADense)[]) {
      expect(await errorOf(() => model.applyLoRA({...targets, layerClass, adapterName: 'other'}))).toEqual({
        code: 'UNSUPPORTED',
        message:
          'adapter "other" of model.layers.0.self_attn.q_proj: expected a layer without adapters or a ' +
          `${layerClass.name}, got a LoRADense with default. Delete these adapters first.`,
      });
    }
    expect(model.adapterNames).toEqual(['default']);
  });

  test('is not written as LoRA when it is something else', async () => {
    model.applyLoRA({...targets, layerClass: NamelessDense});
    await inFolder(async (folder) => {
      expect(await errorOf(() => model.saveAdapter(folder))).toEqual({
        code: 'UNSUPPORTED',
        message:
          'saveAdapter default of model.layers.0.self_attn.q_proj: expected the weights of LoRA for peft_type "LORA", ' +
          'got gain. Give Nameless a static peftType of its own, and registerAdapter(NamelessDense).',
      });
    });
  });
});
