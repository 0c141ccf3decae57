import {readdirSync, readFileSync} from 'node:fs';
import {join, resolve} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import type {LoRAOptions} from '../../../models/peft/loraOptions.ts';
import {setWarningHandler} from '../../../quant/warn.ts';
import {AdamW, AutoModelForCausalLM} from '../../../src/index.ts';
import {describeEachBackend} from '../../describeEachBackend.ts';
import {errorOf} from '../../models/tinyLlama.ts';
import {
  expectClose,
  expectRelative,
  expectSameGradients,
  expectSameTokens,
  type GoldenGreedy,
  type GoldenInputs,
  goldenNamed,
  logitsOf,
  readGoldens,
} from '../golden.ts';

jest.setTimeout(120_000);

/** The folder that make_settings.py writes to. */
const FOLDER = resolve('test/parity/settings/fixtures');

type Model = Awaited<ReturnType<typeof AutoModelForCausalLM.fromPretrained>>;

interface GoldenSetting {
  model: string;
  inputs: GoldenInputs;
  losses: number[];
  greedy: GoldenGreedy;
}

describeEachBackend("a setting of PEFT's LoRA equals PEFT", (backend) => {
  let model: Model;
  let tensorsBefore: number;
  let restoreHandler: () => void;
  const warnings: string[] = [];
  beforeEach(() => {
    warnings.length = 0;
    const before = setWarningHandler((message) => warnings.push(message));
    restoreHandler = () => setWarningHandler(before);
    tensorsBefore = tf.memory().numTensors;
  });
  afterEach(() => {
    restoreHandler();
    model.dispose();
    expect(tf.memory().numTensors).toBe(tensorsBefore);
  });

  const load = async (name: string) => {
    const golden = JSON.parse(readFileSync(join(FOLDER, name, 'manifest.json'), 'utf8')) as GoldenSetting;
    const from = resolve('test/parity', golden.model);
    model = await AutoModelForCausalLM.fromPretrained(from);
    return {...golden, from, adapter: join(FOLDER, name, 'adapter')};
  };

  // A step on cpu takes as long as all 20 elsewhere.
  const cases = readdirSync(FOLDER).filter((name) => backend !== 'cpu' || name.startsWith('bias-all'));
  test.each(cases)('%s: logits, merged, gradients, 20 steps, files', async (name) => {
    const {inputs, losses, greedy, adapter, from} = await load(name);
    const expected = readGoldens(join(FOLDER, name, 'expected.safetensors'));
    const expectLogits = async (key: string, from = model) => {
      const logits = logitsOf(from, inputs);
      await expectClose(logits, goldenNamed(expected, key), 1e-4, inputs.attentionMask!.flat());
      logits.dispose();
    };
    await model.loadAdapter(adapter, {trainable: true});
    await expectLogits('logits');
    if (backend !== 'cpu') await expectSameTokens(model, greedy);
    if (expected.has('mergedLogits')) {
      model.mergeLoRA();
      await expectLogits('mergedLogits');
      model.unmergeLoRA();
      await expectLogits('logits');
    } else expect((await errorOf(() => model.mergeLoRA()))?.code).toBe('UNSUPPORTED');
    const {gradients} = await model.computeGradients(inputs);
    await expectSameGradients(
      Object.fromEntries(Object.entries(gradients).map(([key, value]) => [fileKey(key, expected), value])),
      expected,
      1e-3,
    );
    tf.dispose(gradients);

    const saved = new Map<string, Blob>();
    await model.saveAdapter(saved);
    const read = (at: Map<string, Blob>) => at.get('adapter_model.safetensors')!.arrayBuffer();
    const bytes = readFileSync(join(adapter, 'adapter_model.safetensors'));
    expect(namesOf(await read(saved))).toEqual(namesOf(Uint8Array.from(bytes).buffer));

    const optimizer = new AdamW({learningRate: 3e-3, weightDecay: 0.01});
    model.compile({optimizer});
    const steps = backend === 'cpu' ? losses.slice(0, 1) : losses;
    for (const loss of steps) expectRelative((await model.trainOnBatch(inputs)).loss, loss, 1e-3);
    optimizer.dispose();
    if (steps.length === losses.length) await expectLogits('trainedLogits');

    const trained = new Map<string, Blob>();
    await model.saveAdapter(trained);
    const again = await AutoModelForCausalLM.fromPretrained(from);
    await again.loadAdapter(trained);
    const [ours, theirs] = [logitsOf(model, inputs), logitsOf(again, inputs)];
    expect(await theirs.data()).toEqual(await ours.data());
    expect(again.trainableParameters().size).toBe(0);
    tf.dispose([ours, theirs]);
    again.dispose();
    expect(warnings).toEqual([]);
  });

  test('replicated layers share their weights, with adapters of their own, also over a quantized base', async () => {
    const {from, inputs} = await load('replication');
    await model.quantize('nf4');
    const bytes = model.byteLength;
    const tensors = tf.memory().numTensors;
    model.applyLoRA({
      rank: 2,
      targetModules: ['q_proj'],
      layerReplication: [
        [0, 2],
        [0, 1],
      ],
      seed: 1,
    });
    expect(model.config.numHiddenLayers).toBe(3);
    expect([...model.adaptedLayers().keys()]).toEqual(
      [0, 1, 2].map((i) => `model.layers.${i}.self_attn.q_proj`),
    );
    expect(model.byteLength - bytes).toBe(3 * 4 * (2 * 32 + 64 * 2));
    expect(tf.memory().numTensors - tensors).toBe(6);
    expect((await errorOf(() => model.quantize('int8'))).message).toContain('got replicated ones');
    expect((await errorOf(() => model.fuseLoRA({dequantize: true}))).message).toContain(
      'PEFT refuses this too',
    );
    expect((await errorOf(() => model.applyLoRA({adapterName: 'b', bias: 'all'}))).message).toContain(
      'share theirs',
    );
    const pissa = await errorOf(() => model.initializeLoRA({method: 'pissa'}));
    expect(pissa.message).toMatch(/expected (layers with weights of their own|a base that is not quantized)/);
    const files = new Map<string, Blob>();
    await model.saveAdapter(files);
    const again = await AutoModelForCausalLM.fromPretrained(from, {quantization: 'nf4'});
    await again.loadAdapter(files);
    const [ours, theirs] = [logitsOf(model, inputs), logitsOf(again, inputs)];
    expect(await theirs.data()).toEqual(await ours.data());
    tf.dispose([ours, theirs]);
    again.dispose();
  });

  test('impossible replications are refused, and the model stays as it was', async () => {
    const {inputs} = await load('replication');
    const before = logitsOf(model, inputs);
    const refusals: [LoRAOptions, string][] = [
      [{layerReplication: [[0, 3]]}, 'expected ranges [start, end) of the 2 layers'],
      [
        {
          layerReplication: [
            [0, 1],
            [0, 2],
          ],
          targetModules: ['nothing'],
        },
        'got no match',
      ],
      [{layerReplication: [[0, 2]], bias: 'all'}, 'expected none with replicated layers'],
    ];
    for (const [options, message] of refusals)
      expect((await errorOf(() => model.applyLoRA({rank: 2, ...options}))).message).toContain(message);
    const after = logitsOf(model, inputs);
    expect(await after.data()).toEqual(await before.data());
    tf.dispose([before, after]);
    model.applyLoRA({rank: 2, layerReplication: [[1, 2]]});
    expect((await errorOf(() => model.initializeLoRA({method: 'olora'}))).message).toContain(
      'which share theirs',
    );
    expect([...model.adaptedLayers().keys()].every((name) => name.startsWith('model.layers.0'))).toBe(true);
    const second = {adapterName: 'b', layerReplication: [[0, 1]]} as LoRAOptions;
    expect((await errorOf(() => model.applyLoRA(second))).message).toContain('as the model is');
    model.deleteAdapter('default');
    model.applyLoRA({rank: 2, adapterName: 'b', layerReplication: [[1, 2]]});
  });
});

/** Returns the key of a weight in the adapter's file: a bias of the base has that of PEFT there. */
function fileKey(key: string, expected: Map<string, unknown>): string {
  const [layer] = key.split(/\.bias$/);
  const places = [key, `base_model.model.${layer}.base_layer.bias`, `base_model.model.${key}`];
  return places.find((place) => expected.has(`gradient:${place}`)) ?? key;
}

/** Returns the tensors' names in a safetensors file, sorted. */
function namesOf(file: ArrayBuffer): string[] {
  const length = Number(new DataView(file).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(file, 8, length)));
  return Object.keys(header).sort();
}
