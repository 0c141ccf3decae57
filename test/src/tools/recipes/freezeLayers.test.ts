import {Llama, useBackend} from '../../../../src/index.ts';
import {freezeLayers} from '../../../../src/tools/recipes/freezeLayers.ts';
import {tinyConfig} from '../../../models/tinyLlama.ts';

describe('freezeLayers', () => {
  let model: Llama;

  beforeAll(async () => {
    await useBackend('cpu');
  });
  beforeEach(() => {
    model = Llama.fromConfig({...tinyConfig, numHiddenLayers: 4});
  });
  afterEach(() => model.dispose());

  const freeze = (blocks: number, modules = ['all'], extraModules: string[] = []) =>
    freezeLayers(model, {blocks, modules, extraModules});
  const trained = () => [...model.trainableParameters().keys()];
  const blocks = () => [...new Set(trained().map((name) => /layers\.(\d)/.exec(name)?.[1]))];

  test('trains the last blocks, or the first if negative, but never more than there are', () => {
    freeze(2);
    expect(blocks()).toEqual(['2', '3']);
    freeze(-1);
    expect(blocks()).toEqual(['0']);
    freeze(9);
    expect(blocks()).toEqual(['0', '1', '2', '3']);
    freeze(-9);
    expect(blocks()).toEqual(['0', '1', '2', '3']);
  });

  test('trains only the named modules of these blocks', () => {
    freeze(1, ['self_attn', 'input_layernorm']);
    expect(trained()).toEqual([
      'model.layers.3.self_attn.q_proj.weight',
      'model.layers.3.self_attn.k_proj.weight',
      'model.layers.3.self_attn.v_proj.weight',
      'model.layers.3.self_attn.o_proj.weight',
      'model.layers.3.input_layernorm.weight',
    ]);
  });

  test('trains modules outside the blocks too', () => {
    freeze(1, ['input_layernorm'], ['norm', 'embed_tokens']);
    expect(trained()).toEqual([
      'model.embed_tokens.weight',
      'model.layers.3.input_layernorm.weight',
      'model.norm.weight',
    ]);
  });

  test('nothing else changes in training', async () => {
    freeze(1, ['mlp'], ['norm']);
    const values = async () =>
      new Map(
        await Promise.all(
          [...model.namedParameters()].map(
            async ([name, parameter]) => [name, await parameter.read().array()] as const,
          ),
        ),
      );
    const before = await values();
    await model.trainOnBatch({inputIds: [[1, 2, 3, 4]], labels: [[1, 2, 3, 4]]});
    const after = await values();
    const changed = [...before.keys()].filter(
      (name) => JSON.stringify(before.get(name)) !== JSON.stringify(after.get(name)),
    );
    expect(changed).toEqual([
      'model.layers.3.mlp.gate_proj.weight',
      'model.layers.3.mlp.up_proj.weight',
      'model.layers.3.mlp.down_proj.weight',
      'model.norm.weight',
    ]);
  });

  test('names the nearest for an unknown module, and changes nothing', () => {
    const before = trained();
    expect(() => freeze(1, ['self_atn'])).toThrow(
      'freeze_trainable_modules: expected modules of the model, got self_atn. Nearest: self_attn',
    );
    expect(() => freeze(1, ['all'], ['lm_hed'])).toThrow(
      'freeze_extra_modules: expected modules of the model, got lm_hed',
    );
    expect(trained()).toEqual(before);
  });
});
