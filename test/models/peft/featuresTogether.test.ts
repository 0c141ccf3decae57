import type {LlamaForCausalLM} from '../../../models/llama/llama.ts';
import {useBackend} from '../../../src/training/backends/useBackend.ts';
import {errorOf, logitsOf, stirAdapter, tinyLlama} from '../tinyLlama.ts';

describe('features of adapters that meet', () => {
  beforeAll(() => useBackend('cpu'));

  const row = [1, 2, 3, 4, 5, 6, 7, 8];
  const batches = [{inputIds: [row], labels: [row]}];

  async function saved(model: LlamaForCausalLM, options?: {convertToLoRA: boolean}) {
    const files = new Map<string, Blob>();
    await model.saveAdapter(files, 'default', options);
    return {files, config: JSON.parse(await files.get('adapter_config.json')!.text())};
  }

  const llamaWithBiases = () => tinyLlama({attentionBias: true, mlpBias: true});

  test('an adapter that EVA initialized is read again with its rows of tokens', async () => {
    const model = tinyLlama({}, {seed: 1});
    const again = tinyLlama({}, {seed: 1});
    model.applyLoRA({rank: 2, targetModules: ['q_proj', 'v_proj'], trainableTokenIndices: [1, 2]});
    await model.initializeLoRA({method: 'eva', batches});
    stirAdapter(model);
    const {files, config} = await saved(model);
    expect(config.target_modules).toHaveLength(4);
    await again.loadAdapter(files);
    expect(logitsOf(again)).toEqual(logitsOf(model));
    for (const each of [model, again]) each.dispose();
  });

  test.each(['eva', 'pissa'] as const)('%s after loading is what is saved', async (method) => {
    const [model, again] = [tinyLlama({}, {seed: 1}), tinyLlama({}, {seed: 1})];
    model.applyLoRA({rank: 2, alpha: 6, layersToTransform: [0, 1], excludeModules: ['o_proj']});
    const first = await saved(model);
    const config = JSON.stringify({...first.config, revision: 'main'});
    first.files.set('adapter_config.json', new Blob([config]));
    await model.deleteAdapter('default').loadAdapter(first.files);
    await model.initializeLoRA({method, ...(method === 'eva' && {batches})});
    expect(model.trainableParameters().size).toBe(0); // it was loaded frozen
    stirAdapter(model);
    const second = await saved(model);
    expect(second.config).toMatchObject({revision: 'main', init_lora_weights: method});
    await again.loadAdapter(second.files);
    const [expected, got] = [logitsOf(model), logitsOf(again)];
    for (const [i, value] of expected.entries()) expect(got[i]).toBeCloseTo(value, 5);
    for (const each of [model, again]) each.dispose();
  });

  test('EVA refuses a head that shares the matrices of its embedding', async () => {
    const model = tinyLlama();
    model.applyLoRA({rank: 2, targetModules: ['q_proj', 'embed_tokens'], ensureWeightTying: true});
    expect(await errorOf(() => model.initializeLoRA({method: 'eva', batches}))).toMatchObject({
      code: 'UNSUPPORTED',
      message: expect.stringContaining('of lm_head: expected an adapter with matrices of its own'),
    });
    model.dispose();
  });

  test('a conversion to plain LoRA refuses embeddings instead of losing them', async () => {
    const model = tinyLlama({tieWordEmbeddings: false});
    model.applyLoRA({rank: 2, targetModules: ['q_proj', 'embed_tokens']});
    await model.initializeLoRA({method: 'pissa'});
    expect(await errorOf(() => saved(model, {convertToLoRA: true}))).toMatchObject({
      code: 'UNSUPPORTED',
      message: expect.stringContaining('expected an adapter of linear layers alone'),
    });
    model.dispose();
  });

  test('trained biases stop with the adapter that is fused, and refuse to be combined', async () => {
    const model = llamaWithBiases();
    model.applyLoRA({rank: 1, targetModules: ['q_proj'], bias: 'all'});
    expect(await errorOf(() => model.combineAdapters({default: 1}, {adapterName: 'other'}))).toMatchObject({
      code: 'UNSUPPORTED',
      message: expect.stringContaining('got "default", which trains biases of the base'),
    });
    model.fuseLoRA();
    expect(model.trainableParameters().size).toBe(0);
    model.dispose();
  });

  test('EVA leaves the biases of layers without rank frozen', async () => {
    const model = llamaWithBiases();
    model.applyLoRA({rank: 1, bias: 'lora_only'});
    await model.initializeLoRA({method: 'eva', batches, evaConfig: {rho: 8}});
    const biases = [...model.trainableParameters().keys()].filter((name) => /bias$/.test(name));
    expect(biases).toHaveLength(model.adaptedLayers().size);
    model.dispose();
  });

  test('hotswapAdapter refuses other replicated layers, and fewer layers with DoRA', async () => {
    const model = tinyLlama();
    model.applyLoRA({rank: 2, targetModules: ['q_proj']});
    const {files} = await saved(model);
    const replicated = tinyLlama();
    replicated.applyLoRA({
      rank: 2,
      targetModules: ['q_proj'],
      layerReplication: [
        [0, 2],
        [1, 2],
      ],
    });
    expect(await errorOf(() => replicated.hotswapAdapter(files))).toMatchObject({
      code: 'UNSUPPORTED',
      message: expect.stringContaining('layer_replication: expected [[0,2],[1,2]], as in "default"'),
    });
    model.deleteAdapter('default').applyLoRA({rank: 2, targetModules: ['q_proj'], useDoRA: true});
    const fewer = await saved(model);
    model.deleteAdapter('default').applyLoRA({rank: 2, targetModules: ['q_proj', 'v_proj'], useDoRA: true});
    expect((await errorOf(() => model.hotswapAdapter(fewer.files))).code).toBe('MISSING_TENSOR');
    for (const each of [model, replicated]) each.dispose();
  });

  test('a padded adapter of targetParameters is read again', async () => {
    const model = tinyLlama();
    model.applyLoRA({rank: 2, targetParameters: ['q_proj.weight']});
    model.prepareHotswap({targetRank: 4});
    const {files} = await saved(model);
    await model.deleteAdapter('default').loadAdapter(files);
    expect(model.adaptedLayers().size).toBe(2);
    model.dispose();
  });
});
