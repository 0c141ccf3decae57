import * as tf from '@tensorflow/tfjs';
import {backendTraits, setBackendTraits} from '../../../layers/ops/backendTraits.ts';
import {generateIds} from '../../../models/generation/generate.ts';
import {LlamaForCausalLM} from '../../../models/llama/llama.ts';
import type {LoRAOptions} from '../../../models/peft/loraOptions.ts';
import {describeEachBackend, expectNoLeak} from '../../describeEachBackend.ts';
import {expectClose} from '../../expectClose.ts';
import {errorOf, stirAdapter} from '../tinyLlama.ts';

/** Adapters of different ranks, scalings, kinds and targets. */
const ADAPTERS: Record<string, LoRAOptions> = {
  a: {rank: 2, alpha: 3, targetModules: ['q_proj', 'v_proj']},
  b: {rank: 4, alpha: 5, useRsLoRA: true, targetModules: 'all-linear'},
  c: {rank: 3, useDoRA: true, targetModules: ['o_proj', 'down_proj', 'v_proj']},
  d: {rank: 1, useDoRA: true, useRsLoRA: true, layersToTransform: [1]},
  e: {rank: 2, loraBias: true, targetModules: ['k_proj'], modulesToSave: ['lm_head', 'norm']},
  f: {rank: 2, targetModules: ['embed_tokens', 'gate_proj'], ensureWeightTying: true},
};
const NAMES = ['b', '__base__', 'f', 'a', 'c', 'e', 'e', 'f', 'b', 'd'];

describeEachBackend('an adapter per row', (backend) => {
  let tensorsBefore: number;
  let model: LlamaForCausalLM;
  beforeAll(() => {
    tensorsBefore = tf.memory().numTensors;
    model = LlamaForCausalLM.fromConfig(
      {
        vocabSize: 97,
        hiddenSize: 16,
        intermediateSize: 24,
        numHiddenLayers: 2,
        numAttentionHeads: 4,
        numKeyValueHeads: 2,
        maxPositionEmbeddings: 64,
        tieWordEmbeddings: true,
        initializerRange: 0.3, // wide enough that logits differ clearly from token to token
      },
      {seed: 3},
    );
    for (const [adapterName, options] of Object.entries(ADAPTERS)) {
      model.applyLoRA({...options, adapterName});
      stirAdapter(model, adapterName, adapterName.charCodeAt(0));
    }
    for (const [key, variable] of model.trainableParameters())
      if (!/lora_[AB].weight/.test(key))
        tf.tidy(() =>
          variable.assign(tf.add(variable, tf.randomUniform(variable.shape, 0, 0.5, 'float32', 3))),
        );
    model.setAdapter('a');
  });
  afterAll(() => {
    model.dispose();
    expect(tf.memory().numTensors).toBe(tensorsBefore);
  });

  const IDS = NAMES.map((_, row) => [5, 17 + row, 3, 88 - row, 41]);

  async function read(make: () => tf.Tensor): Promise<Float32Array> {
    const tensor = tf.tidy(make);
    const values = Float32Array.from((await tensor.data()) as Float32Array);
    tensor.dispose();
    return values;
  }

  const alone = <R>(name: string, run: () => R): R =>
    model.withAdapters(name === '__base__' ? [] : name, run);

  /** Expects `rows` to be one after another what each adapter computes alone. */
  async function expectAlone(rows: Float32Array): Promise<void> {
    const length = rows.length / NAMES.length;
    for (const [row, name] of NAMES.entries()) {
      const expected = await read(() => alone(name, () => model.predict([IDS[row]])));
      const actual = rows.subarray(row * length, (row + 1) * length);
      const scale = expected.reduce((largest, x) => Math.max(largest, Math.abs(x)), 0);
      const error = expected.reduce((largest, x, i) => Math.max(largest, Math.abs(x - actual[i])), 0);
      if (backend === 'cpu') expect(error).toBe(0);
      else expect(error / scale).toBeLessThan(1e-5);
    }
  }

  test('predicts for each row what its adapter predicts alone, also on a quantized base', async () => {
    const active = await read(() => model.predict(IDS));
    await expectAlone(await read(() => model.predict(IDS, {adapterNames: NAMES})));
    expect(await read(() => model.predict(IDS))).toEqual(active); // the active adapters are as before
    const quantized = LlamaForCausalLM.fromConfig({...model.config, numHiddenLayers: 1}, {seed: 3});
    const plain = model;
    try {
      model = quantized;
      await model.quantize({type: 'nf4', doubleQuant: true});
      for (const adapterName of Object.keys(ADAPTERS)) {
        model.applyLoRA({rank: 2, useDoRA: adapterName === 'c', adapterName});
        stirAdapter(model, adapterName, adapterName.charCodeAt(0));
      }
      await expectAlone(await read(() => model.predict(IDS, {adapterNames: NAMES})));
    } finally {
      model = plain;
      quantized.dispose();
    }
  });

  test('runs rows of one adapter as if only it were active', async () => {
    const stacked = jest.spyOn(model.blocks[0].self_attn.q_proj as never, 'stackRows');
    try {
      const expected = await read(() => alone('b', () => model.predict(IDS)));
      for (const adapterNames of ['b', NAMES.map(() => 'b')])
        expect(await read(() => model.predict(IDS, {adapterNames}))).toEqual(expected);
      expect(stacked).not.toHaveBeenCalled();
      model.predict(IDS, {adapterNames: NAMES}).dispose();
      expect(stacked).toHaveBeenCalledTimes(1);
    } finally {
      stacked.mockRestore();
    }
  });

  test('knows its rows where the feed-forward comes in parts', async () => {
    const expected = await read(() => model.predict(IDS, {adapterNames: NAMES}));
    const {maxTensorBytes} = backendTraits();
    setBackendTraits(tf.backend(), {maxTensorBytes: 4 * 24 * 7}); // seven of fifty positions
    try {
      const parts = await read(() => model.predict(IDS, {adapterNames: NAMES}));
      if (backend === 'cpu') expect(parts).toEqual(expected);
      else expectClose(parts, expected);
    } finally {
      setBackendTraits(tf.backend(), {maxTensorBytes});
    }
  });

  test('keeps no tensors', () => expectNoLeak(() => model.predict(IDS, {adapterNames: NAMES})));

  test('refuses names that do not exist, too few of them, merged weights and training', async () => {
    const predict = (adapterNames: string | string[]) =>
      errorOf(() => model.predict(IDS.slice(0, 2), {adapterNames}).dispose());
    expect(await predict(['a', 'bb'])).toEqual({
      code: 'UNKNOWN_ADAPTER',
      message: 'adapter "bb": expected one of b, a, c, d, e',
    });
    expect(await predict(['a'])).toEqual({
      code: 'INVALID_ARGUMENT',
      message: 'predict adapterNames: expected one name, or a name for each of 2 rows, got 1',
    });
    expect(await errorOf(() => generateIds(model, [1, 2], {adapterNames: ['a', 'b']}))).toEqual({
      code: 'INVALID_ARGUMENT',
      message: 'generate adapterNames: expected one name, or a name for each of 1 rows, got 2',
    });
    expect(await errorOf(() => model.applyLoRA({adapterName: '__base__'}))).toMatchObject({
      code: 'INVALID_ARGUMENT',
    });
    model.mergeLoRA();
    const merged = {
      code: 'INVALID_ARGUMENT',
      message: 'adapterNames: expected unmerged weights, which all rows share. Call unmergeLoRA() first.',
    };
    expect(await predict('b')).toEqual(merged);
    expect(await errorOf(() => generateIds(model, [1, 2], {adapterNames: 'b'}))).toEqual(merged);
    model.unmergeLoRA();

    const rows = model.rowAdapters(['a', 'b']);
    const batch = {inputIds: IDS.slice(0, 2), labels: IDS.slice(0, 2)};
    const training = {
      code: 'UNSUPPORTED',
      message:
        'adapterNames: expected a pass that does not train, got one that does. Train each adapter on its own rows.',
    };
    const errorOfPass = (pass: () => tf.Tensor) => errorOf(() => tf.tidy(() => rows.run(pass)));
    expect(await errorOfPass(() => model.lossSum(batch, {training: true}))).toEqual(training);
    const query = (x: tf.Tensor) => model.blocks[0].self_attn.q_proj.apply(x) as tf.Tensor;
    expect(await errorOfPass(() => tf.grad(query)(tf.ones([2, 16])))).toEqual(training);
    rows.dispose();
  });
});
