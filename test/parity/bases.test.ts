import {copyFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join, resolve} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {walk} from '../../layers/moduleLayer.ts';
import {QuantizedDense} from '../../layers/quantizedDense.ts';
import {generateIds} from '../../models/generation/generate.ts';
import {SafetensorsFile} from '../../quant/safetensors/safetensorsFile.ts';
import {writeSafetensors} from '../../quant/safetensors/writeSafetensors.ts';
import {setWarningHandler} from '../../quant/warn.ts';
import {Llama, useBackend} from '../../src/index.ts';
import {openBase} from '../../src/tools/recipes/openModel.ts';
import {loadRecipe} from '../../src/tools/recipes/recipe.ts';
import {describeFastBackends} from '../describeEachBackend.ts';
import {
  expectClose,
  expectRelative,
  expectSameGradients,
  goldenNamed,
  logitsOf,
  readGoldens,
} from './golden.ts';

const FOLDER = resolve('test/parity/bases/fixtures');
const CASES = readdirSync(FOLDER).filter((name) => name !== 'adapter');
const IDS = [[1, 9, 33, 7, 60, 2, 41, 5, 17, 28]];

/** Returns the bytes, types and shapes of every tensor of a file. */
function tensorsIn(folder: string): Map<string, [string, Uint8Array]> {
  const file = SafetensorsFile.open(join(folder, 'model.safetensors'));
  const tensors = new Map(
    file.names().map((name) => {
      const {dtype, shape} = file.info(name);
      return [name, [`${dtype} [${shape}]`, file.read(name).slice()] as [string, Uint8Array]];
    }),
  );
  file.close();
  return tensors;
}

const configOf = (folder: string) =>
  JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8')).quantization_config;

describeFastBackends('a base that others quantized', () => {
  let model: Llama | undefined;
  let tensorsBefore: number;

  beforeEach(() => {
    tensorsBefore = tf.memory().numTensors;
  });

  afterEach(() => {
    model?.dispose();
    model = undefined;
    expect(tf.memory().numTensors).toBe(tensorsBefore);
  });

  test.each(CASES)('%s: has the weights, logits and gradients of its own library', async (name) => {
    const expected = readGoldens(join(FOLDER, name, 'expected.safetensors'));
    model = await Llama.fromPretrained(join(FOLDER, name, 'model'));
    const layers = [...walk(model.layers)].filter((layer) => layer instanceof QuantizedDense);
    expect(layers).toHaveLength(7);
    for (const layer of layers) {
      const golden = expected.get(`weight:${layer.name}.weight`);
      if (!golden) continue;
      const dense = layer.dequantize('float32');
      expect(Array.from(await dense.weight.read().data())).toEqual(Array.from(golden.values));
      dense.disposeWeights();
    }
    const logits = logitsOf(model, {inputIds: IDS, labels: IDS});
    await expectClose(logits, goldenNamed(expected, 'logits'), 1e-5);
    logits.dispose();
    await model.loadAdapter(join(FOLDER, 'adapter'), {trainable: true});
    const {loss, gradients} = await model.computeGradients({inputIds: IDS, labels: IDS});
    expectRelative(loss, goldenNamed(expected, 'adapterLoss').values[0], 1e-5);
    await expectSameGradients(gradients, expected, 1e-4);
    tf.dispose(gradients);
  });
});

describe('a base that others quantized', () => {
  beforeAll(() => useBackend('wasm'));

  test.each(CASES)('%s: is saved byte for byte', async (name) => {
    const folder = mkdtempSync(join(tmpdir(), 'tfjs-lora-'));
    const model = await Llama.fromPretrained(join(FOLDER, name, 'model'));
    await model.save(folder);
    expect(tensorsIn(folder)).toEqual(tensorsIn(join(FOLDER, name, 'model')));
    expect(configOf(folder)).toEqual(configOf(join(FOLDER, name, 'model')));
    model.dispose();
    rmSync(folder, {recursive: true});
  });

  test('a bias of zeros beside a layer that has none, as AutoGPTQ writes it, is kept', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'tfjs-lora-'));
    const [base, bias] = [join(FOLDER, 'gptq/model'), 'model.layers.0.self_attn.o_proj.bias'];
    const file = SafetensorsFile.open(join(base, 'model.safetensors'));
    const tensors = file.names().map((name) => ({...file.info(name), name, data: file.read(name).slice()}));
    file.close();
    const write = (values: Uint16Array) =>
      writeSafetensors(join(folder, 'model.safetensors'), [
        ...tensors,
        {name: bias, dtype: 'F16', shape: [64], data: values},
      ]);
    copyFileSync(join(base, 'config.json'), join(folder, 'config.json'));
    await write(new Uint16Array(64));
    const model = await Llama.fromPretrained(folder);
    await model.save(join(folder, 'saved'));
    expect(tensorsIn(join(folder, 'saved'))).toEqual(tensorsIn(folder));
    model.dispose();
    await write(new Uint16Array(64).fill(0x3c00));
    await expect(Llama.fromPretrained(folder)).rejects.toThrow(`Tensor ${bias}: expected zeros`);
    rmSync(folder, {recursive: true});
  });

  test('trains with an adapter, generates, and is merged only into plain weights', async () => {
    const model = await Llama.fromPretrained(join(FOLDER, 'gptq-act-order/model'));
    model.applyLoRA({rank: 4, seed: 1});
    model.compile({optimizer: tf.train.adam(0.02)});
    const batch = {inputIds: IDS, labels: IDS};
    const losses: number[] = [];
    for (let step = 0; step < 4; step++) losses.push((await model.trainOnBatch(batch)).loss);
    expect(losses[3]).toBeLessThan(losses[0] - 0.2);
    const generated = await generateIds(model, [[1, 9]], {maxNewTokens: 4, doSample: false});
    expect(generated[0]).toHaveLength(4);
    const adapted = logitsOf(model, batch);
    expect(() => model.mergeLoRA()).toThrow('dequantize');
    model.mergeLoRA({dequantize: true});
    const merged = logitsOf(model, batch);
    const values = {values: (await adapted.data()) as Float32Array, shape: adapted.shape};
    await expectClose(merged, values, 5e-3); // merged weights are rounded to float16
    tf.dispose([adapted, merged]);
    model.dispose();
  });

  test('is loaded by a recipe that asks for quantization too, with a warning', async () => {
    const warnings: string[] = [];
    const before = setWarningHandler((message) => warnings.push(message));
    const folder = mkdtempSync(join(tmpdir(), 'tfjs-lora-'));
    const path = join(folder, 'recipe.yaml');
    const model_name = join(FOLDER, 'awq-32/model');
    writeFileSync(
      path,
      `model_name_or_path: ${model_name}\nquantization_bit: 4\ndo_train: true\ndataset: none\ntemplate: llama3\n` +
        `output_dir: ${folder}\n`,
    );
    const recipe = await loadRecipe(path, []);
    const model = await openBase(recipe);
    setWarningHandler(before);
    expect(warnings.join()).toContain(
      'is quantized with awq and is loaded as it is, ignoring quantization_bit',
    );
    model.dispose();
    rmSync(folder, {recursive: true});
  });
});
