import * as tf from '@tensorflow/tfjs';
import {setWarningHandler} from '../../../quant/warn.ts';
import {applyLoRA, Llama} from '../../../src/index.ts';
import {useBackend} from '../../../src/training/backends/useBackend.ts';
import {assertReference} from '../../../src/training/losses/reference.ts';
import {errorOf, logitsOf, tinyConfig, tinyIds, tinyLlama} from '../tinyLlama.ts';

describe('biases of the base', () => {
  let model: Llama;
  const warnings: string[] = [];
  let restoreHandler: () => void;
  beforeAll(() => useBackend('cpu'));
  beforeEach(() => {
    warnings.length = 0;
    const before = setWarningHandler((message) => warnings.push(message));
    restoreHandler = () => setWarningHandler(before);
    model = Llama.fromConfig({...tinyConfig, attentionBias: true, mlpBias: true}, {seed: 1}) as Llama;
  });
  afterEach(() => {
    restoreHandler();
    model.dispose();
  });

  const trainedBiases = () => [...model.trainableParameters().keys()].filter((key) => /bias$/.test(key));
  const names = (...layers: string[]) => layers.map((layer) => `model.layers.${layer}.bias`);

  test('train with the active adapter that has them, alone of the base', async () => {
    model.applyLoRA({rank: 2, targetModules: ['q_proj'], bias: 'lora_only'});
    expect(trainedBiases()).toEqual(names('0.self_attn.q_proj', '1.self_attn.q_proj'));
    expect(model.trainableParameters().size).toBe(6);
    model.applyLoRA({rank: 2, targetModules: ['v_proj'], adapterName: 'other'});
    expect(trainedBiases()).toEqual([]);
    model.setAdapter('default');
    await model.quantize('nf4');
    expect(trainedBiases()).toHaveLength(2);
    model.dequantize();
    expect(trainedBiases()).toHaveLength(2);
    model.deleteAdapter('default');
    expect(trainedBiases()).toEqual([]);
    expect(warnings).toEqual([expect.stringContaining('the biases that it trained stay')]);
    model.getLayer('model.layers.0.self_attn.q_proj').trainable = true;
    expect([...model.trainableParameters().keys()]).toContain('model.layers.0.self_attn.q_proj.weight');
  });

  test('all: in every layer, adapted or not, and a refused adapter leaves them as they train', async () => {
    model.applyLoRA({rank: 2, targetModules: ['q_proj'], layersToTransform: 0, bias: 'all'});
    expect(trainedBiases()).toHaveLength(14);
    const second = await errorOf(() => model.applyLoRA({adapterName: 'second', bias: 'lora_only'}));
    expect(second.message).toContain(
      'expected none beside "default", which trains biases too, got lora_only',
    );
    const missing = await errorOf(() =>
      model.loadAdapter('test/parity/settings/fixtures/lora-bias', {adapterName: 'b'}),
    );
    expect(missing.code).toBe('FILE_NOT_FOUND');
    expect(trainedBiases()).toHaveLength(14);
    const files = new Map<string, Blob>();
    await model.saveAdapter(files);
    expect(JSON.parse(await files.get('adapter_config.json')!.text())).toMatchObject({
      bias: 'all',
      lora_bias: false,
    });
  });

  test('computing without the adapter warns once, as in PEFT, and is no reference', async () => {
    model.applyLoRA({rank: 2, bias: 'all'});
    for (let i = 0; i < 2; i++) model.withoutAdapter(() => logitsOf(model));
    expect(warnings).toEqual([expect.stringContaining('expected bias none to compute without it, got all')]);
    expect((await errorOf(() => assertReference('loss', model, undefined))).message).toContain(
      'got "default", which trains biases of the base',
    );
  });

  test('a bias of B is added in the rows of its adapter', () => {
    for (const adapterName of ['a', 'b'])
      model.applyLoRA({rank: 2, loraBias: adapterName === 'a', adapterName});
    for (const [index, [key, variable]] of [...model.namedParameters()].entries())
      if (key.includes('lora_B'))
        variable.write(tf.tidy(() => tf.randomNormal(variable.logicalShape, 0, 0.5, 'float32', index)));
    const logits = (run: () => tf.Tensor) => tf.tidy(() => tf.unstack(run()).map((row) => row.dataSync()));
    const predict = (options?: object) => model.predict(tinyIds, options) as tf.Tensor;
    const rows = logits(() => predict({adapterNames: ['a', 'b']}));
    for (const [index, name] of ['a', 'b'].entries()) {
      const alone = model.withAdapters(name, () => logits(() => predict()))[index];
      for (const [i, value] of alone.entries()) expect(rows[index][i]).toBeCloseTo(value, 4);
    }
  });

  test('refuses what PEFT refuses', async () => {
    const refuse = (options: object) => errorOf(() => model.applyLoRA({rank: 2, ...options}));
    expect((await refuse({loraBias: true, useDoRA: true})).message).toContain('expected false with useDoRA');
    expect((await refuse({loraBias: true, init: 'gaussian'})).message).toContain(
      'expected false with init gaussian',
    );
    expect((await refuse({bias: 'some'})).message).toContain('expected none, lora_only or all, got');
    const parameters = (...targetParameters: string[]) => ({targetParameters});
    expect((await refuse({...parameters('q_proj.weight'), dropout: 0.1})).message).toContain(
      'expected no dropout',
    );
    expect((await refuse(parameters('experts.weight'))).message).toContain('targetParameters experts.weight');
    expect((await refuse(parameters('embed_tokens.weight'))).message).toContain('cannot be adapted');
    expect((await refuse({...parameters('q_proj.weight'), targetModules: ['q_proj']})).message).toContain(
      'expected layers that targetModules leaves out',
    );
    model.applyLoRA({rank: 2, loraBias: true});
    expect((await errorOf(() => model.combineAdapters({default: 1}, {adapterName: 'b'}))).message).toContain(
      'got loraBias',
    );
    expect((await errorOf(() => model.initializeLoRA({method: 'pissa'}))).message).toContain(
      'without loraBias',
    );
    const dense = tf.sequential({layers: [tf.layers.dense({units: 4, inputShape: [3]})]});
    expect((await errorOf(() => applyLoRA(dense, {rank: 2, bias: 'all'}))).message).toContain('is shared');
    const plain = tinyLlama();
    plain.applyLoRA({rank: 2, bias: 'all'});
    expect(warnings.at(-1)).toContain('have no biases, so none trains');
    plain.dispose();
  });
});
