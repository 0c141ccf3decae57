import * as tf from '@tensorflow/tfjs';
import type {LoRAAdapter} from '../../../layers/loraAdapter.ts';
import {LoRADense, type LoRADenseArgs} from '../../../layers/loraDense.ts';
import type {LoRAAdapterArgs} from '../../../layers/loraFields.ts';
import {QuantizedDense} from '../../../layers/quantizedDense.ts';
import {TransposedDense} from '../../../layers/transposedDense.ts';
import type {LlamaForCausalLM} from '../../../models/llama/llama.ts';
import {replaceLayer} from '../../../models/replaceLayer.ts';
import {describeEachBackend} from '../../describeEachBackend.ts';
import {errorOf, logitsOf, stirAdapter, tinyLlama} from '../tinyLlama.ts';

/** LoRA-FA (Zhang et al. 2023): A keeps its initial values. */
class LoRAFADense extends LoRADense {
  static override className = 'TestLoRAFADense';
  override addAdapter(name: string, args: LoRAAdapterArgs): LoRAAdapter {
    const adapter = super.addAdapter(name, args);
    adapter.loraA.trainable = false;
    return adapter;
  }
}

/** A layer with a trained gate beside the adapters. */
class GatedLoRADense extends LoRADense {
  static override className = 'TestGatedLoRADense';
  constructor(args: LoRADenseArgs & {base?: TransposedDense}) {
    super(args);
    this.addParameter('gate', [1], {initialize: () => tf.ones([1])});
  }
}

class SignedDense extends QuantizedDense {
  static override className = 'TestSignedDense';
}

const trained = (model: LlamaForCausalLM) => [...model.trainableParameters().keys()].sort();
const isOnlyB = (keys: string[]) => keys.length > 0 && keys.every((key) => key.endsWith('lora_B.weight'));

describeEachBackend('what is frozen stays frozen', () => {
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

  test('makes a subclass with its fromDense', async () => {
    const dense = new TransposedDense({units: 4, name: 'projection'});
    dense.build([null, 64]);
    const layer = LoRAFADense.fromDense(dense, {rank: 2});
    expect(layer).toBeInstanceOf(LoRAFADense);
    expect(layer.trainableWeights).toEqual([layer.loraB]);
    expect(LoRADense.fromDense(dense).getClassName()).toBe('LoRADense');
    const quantized = await SignedDense.fromDense(dense, 'nf4');
    expect(quantized).toBeInstanceOf(SignedDense);
    layer.disposeWeights();
    quantized.disposeWeights();
  });

  test.each(['applyLoRA’s layerClass', 'a layer in place'])('a subclass through %s', (how) => {
    if (how === 'a layer in place') {
      for (const block of model.blocks) {
        const base = block.self_attn.q_proj as TransposedDense;
        replaceLayer(model, base, LoRAFADense.fromDense(base));
      }
      model.applyLoRA({rank: 2, targetModules: ['q_proj']});
    } else {
      model.applyLoRA({rank: 2, targetModules: ['q_proj'], layerClass: LoRAFADense});
    }
    for (const layer of model.adaptedLayers().values()) expect(layer).toBeInstanceOf(LoRAFADense);
    expect(trained(model)).toHaveLength(2);
    expect(isOnlyB(trained(model))).toBe(true);
    model.setAdapter([]);
    expect(trained(model)).toEqual([]);
    model.setAdapter('default');
    expect(isOnlyB(trained(model))).toBe(true);
    for (const block of model.blocks) block.trainable = false;
    expect(trained(model)).toEqual([]);
    for (const block of model.blocks) block.trainable = true;
    expect(isOnlyB(trained(model))).toBe(true);
    model.applyLoRA({rank: 1, targetModules: ['q_proj'], adapterName: 'second'});
    expect(isOnlyB(trained(model))).toBe(true);
  });

  test('continues to train what a subclass trains beside its adapters', () => {
    model.applyLoRA({rank: 2, targetModules: ['q_proj'], layerClass: GatedLoRADense});
    expect(trained(model).filter((key) => key.endsWith('q_proj.gate'))).toHaveLength(2);
    expect(trained(model)).toHaveLength(6);
  });

  test('thaws the adapters of a toggled block, not its norms or the base', () => {
    model.applyLoRA({rank: 2});
    const adapters = trained(model);
    const [block] = model.blocks;
    block.trainable = false;
    expect(block.trainableWeights).toEqual([]);
    expect(trained(model)).toHaveLength(adapters.length / 2);
    block.trainable = true;
    expect(trained(model)).toEqual(adapters);
    expect(block.trainableWeights).toHaveLength(adapters.length / 2);
    block.input_layernorm.trainable = true; // when set on the norm itself, it trains
    expect(trained(model)).toEqual([...adapters, 'model.layers.0.input_layernorm.weight'].sort());
  });

  test('trains a new adapter in a frozen block, and keeps the inactive one frozen when blocks are toggled', () => {
    for (const block of model.blocks) block.trainable = false;
    model.applyLoRA({rank: 2, adapterName: 'a'}).applyLoRA({rank: 2, adapterName: 'b'});
    const active = trained(model);
    expect(active).toHaveLength(28);
    expect(model.trainableWeights).toHaveLength(28);
    for (const trainable of [false, true]) for (const block of model.blocks) block.trainable = trainable;
    expect(trained(model)).toEqual(active);
    stirAdapter(model, 'a');
    expect(model.adaptedLayers().get('model.layers.0.mlp.up_proj')?.adapter('a').trainable).toBe(false);
  });

  test('checks setWeights of a model as a whole', async () => {
    const logits = logitsOf(model);
    const weights = model.getWeights();
    expect((await errorOf(() => model.setWeights(weights.slice(1)))).code).toBe('INVALID_ARGUMENT');
    const wrong = [...weights.slice(0, -1), tf.zeros([3])];
    expect((await errorOf(() => model.setWeights(wrong))).code).toBe('SHAPE_MISMATCH');
    wrong.at(-1)?.dispose();
    expect(logitsOf(model)).toEqual(logits);
    model.setWeights(weights);
    expect(logitsOf(model)).toEqual(logits);
  });
});
