import {mkdtempSync, readdirSync, rmSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join, resolve} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import type {StorageDtype} from '../../quant/float16.ts';
import {SafetensorsFile} from '../../quant/safetensors/safetensorsFile.ts';
import {Llama} from '../../src/index.ts';
import {describeEachBackend} from '../describeEachBackend.ts';
import {
  expectClose,
  expectRelative,
  expectSameGradients,
  type GoldenInputs,
  goldenNamed,
  logitsOf,
  readGoldens,
  readJson,
  type Tolerances,
} from './golden.ts';

const FOLDER = resolve('test/parity/quantized/fixtures');
const BASE = join(FOLDER, 'base');

interface QuantizedCase {
  name: string;
  quantization: {type: 'nf4' | 'fp4' | 'int8'; doubleQuant?: boolean};
  /** Dtype in which the base was loaded before it was quantized. */
  dtype: StorageDtype;
  inputs: GoldenInputs;
  adapterLoss: number;
  tolerances: Tolerances;
}

const cases = readdirSync(FOLDER)
  .filter((name) => name !== 'base')
  .map((name) => ({...readJson<QuantizedCase>(join('../quantized/fixtures', name, 'manifest.json')), name}));

/** Returns the bytes of every tensor of a file. */
function tensorsIn(folder: string): Map<string, Uint8Array> {
  const file = SafetensorsFile.open(join(folder, 'model.safetensors'));
  const tensors = new Map(file.names().map((name) => [name, file.read(name)]));
  file.close();
  return tensors;
}

describeEachBackend('a quantized base equals bitsandbytes', (backend) => {
  let model: Llama | undefined;
  let tensorsBefore: number;
  let folder: string;

  beforeEach(() => {
    tensorsBefore = tf.memory().numTensors;
    folder = mkdtempSync(join(tmpdir(), 'tfjs-lora-'));
  });

  afterEach(() => {
    model?.dispose();
    model = undefined;
    rmSync(folder, {recursive: true});
    expect(tf.memory().numTensors).toBe(tensorsBefore);
  });

  // `cpu` takes 20 times as long, so it has one case of each type. The others differ in what is stored, not in what is
  // computed.
  const chosen = backend === 'cpu' ? cases.filter(({name}) => /^(nf4-double|fp4|int8)$/.test(name)) : cases;
  describe.each(chosen)('$name', ({name, quantization, dtype, inputs, adapterLoss, tolerances}) => {
    const expected = readGoldens(join(FOLDER, name, 'expected.safetensors'));
    const mask = inputs.attentionMask?.flat();

    test('loads a folder of transformers: logits, and loss and gradients of an adapter', async () => {
      model = await Llama.fromPretrained(join(FOLDER, name, 'model'));
      expect(model.byteLength).toBeLessThan(4 * model.countParams() * 0.6);
      const logits = logitsOf(model, inputs);
      await expectClose(logits, goldenNamed(expected, 'logits'), tolerances.logits, mask);
      await model.loadAdapter(join(FOLDER, name, 'adapter'), {trainable: true});
      const adapted = logitsOf(model, inputs);
      await expectClose(adapted, goldenNamed(expected, 'adapterLogits'), tolerances.logits, mask);
      const {loss, gradients} = await model.computeGradients(inputs);
      expectRelative(loss, adapterLoss, tolerances.loss);
      await expectSameGradients(gradients, expected, tolerances.gradient);
      tf.dispose([logits, adapted, gradients]);
    });

    test('quantizes while loading to the codes of transformers', async () => {
      model = await Llama.fromPretrained(BASE, {dtype, quantization});
      const logits = logitsOf(model, inputs);
      await expectClose(logits, goldenNamed(expected, 'logits'), 10 * tolerances.logits, mask);
      logits.dispose();
      await model.save(folder);
      const theirs = tensorsIn(join(FOLDER, name, 'model'));
      const ours = tensorsIn(folder);
      expect([...ours.keys()].sort()).toEqual([...theirs.keys()].sort());
      for (const [key, bytes] of theirs) {
        // Scales of scales differ in a few codes, because bitsandbytes has two methods.
        if (/absmax|quant_state/.test(key)) continue;
        expect([key, Buffer.compare(ours.get(key) as Uint8Array, bytes)]).toEqual([key, 0]);
      }
    });

    test('saves and loads without a change', async () => {
      model = await Llama.fromPretrained(join(FOLDER, name, 'model'));
      const before = logitsOf(model, inputs);
      await model.save(folder);
      model.dispose();
      model = await Llama.fromPretrained(folder);
      const after = logitsOf(model, inputs);
      expect(Array.from(await after.data())).toEqual(Array.from(await before.data()));
      tf.dispose([before, after]);
    });
  });
});
