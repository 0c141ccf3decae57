import {readdirSync, readFileSync} from 'node:fs';
import {join, resolve} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {setWarningHandler} from '../../../quant/warn.ts';
import {AdamW, AutoModelForCausalLM} from '../../../src/index.ts';
import {describeEachBackend} from '../../describeEachBackend.ts';
import {errorOf} from '../../models/tinyLlama.ts';
import {
  expectClose,
  expectRelative,
  expectSameGradients,
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

  test.each(readdirSync(FOLDER))('%s: logits, merged, gradients, 20 steps, files', async (name) => {
    const {inputs, losses, adapter, from} = await load(name);
    const expected = readGoldens(join(FOLDER, name, 'expected.safetensors'));
    const expectLogits = async (key: string, from = model) => {
      const logits = logitsOf(from, inputs);
      await expectClose(logits, goldenNamed(expected, key), 1e-4, inputs.attentionMask!.flat());
      logits.dispose();
    };
    await model.loadAdapter(adapter, {trainable: true});
    await expectLogits('logits');
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
