import {cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {billRecords} from '../../../../examples/quickstart/billGenerator.ts';
import {LlamaForCausalLM, modelTypes, registerModel} from '../../../../models/index.ts';
import {AutoModelForCausalLM, Llama, trainable, useBackend} from '../../../../src/index.ts';
import {openBase} from '../../../../src/tools/recipes/openModel.ts';
import {loadRecipe} from '../../../../src/tools/recipes/recipe.ts';
import {errorOf} from '../../../models/tinyLlama.ts';
import {runCommandLine} from '../cli/runCommandLine.ts';

/*
 * A model family from outside the library, used by the command line.
 */

/** A Llama whose hidden states, and therefore logits, are halved. */
class HalvedForCausalLM extends LlamaForCausalLM {
  static override className = 'HalvedForCausalLM';
  static override readonly modelType = 'halved';
  static override readonly architecture = 'HalvedForCausalLM';

  override forward(...args: Parameters<LlamaForCausalLM['forward']>): tf.Tensor3D {
    return tf.tidy(() => super.forward(...args).div(2));
  }
}

const QUICKSTART = join(__dirname, '../../../../examples/quickstart/model');
const folder = mkdtempSync(join(tmpdir(), 'tfjs-lora-family-'));
const [model, recipeFile, exported] = ['model', 'recipe.yaml', 'exported'].map((name) => join(folder, name));
const configOf = (path: string) => JSON.parse(readFileSync(join(path, 'config.json'), 'utf8'));
const logitsOf = (path: string) =>
  AutoModelForCausalLM.fromPretrained(path).then((loaded) => {
    const logits = tf.tidy(() => loaded.predict([[1, 2, 3, 4]]).dataSync() as Float32Array).slice();
    loaded.dispose();
    return logits;
  });

beforeAll(async () => {
  process.env.HF_HOME = join(folder, 'cache');
  await useBackend('wasm');
  cpSync(QUICKSTART, model, {recursive: true});
  const config = {...configOf(model), model_type: 'halved', architectures: ['HalvedForCausalLM']};
  writeFileSync(join(model, 'config.json'), JSON.stringify(config));
  const data = join(folder, 'data');
  mkdirSync(data);
  writeFileSync(join(data, 'bills.json'), JSON.stringify(billRecords('train', 4)));
  writeFileSync(join(data, 'dataset_info.json'), JSON.stringify({bills: {file_name: 'bills.json'}}));
  writeFileSync(
    recipeFile,
    `model_name_or_path: ${model}\ndo_train: true\nlora_rank: 4\ndataset: bills\ndataset_dir: ${data}\n` +
      `template: llama3\ncutoff_len: 64\nlearning_rate: 1.0e-2\nmax_steps: 2\noutput_dir: ${join(folder, 'saves')}\n`,
  );
});
afterAll(() => rmSync(folder, {recursive: true}));

test('is refused by name before it is registered', async () => {
  const known = modelTypes();
  const recipe = await loadRecipe(recipeFile, []);
  for (const open of [() => openBase(recipe), () => AutoModelForCausalLM.fromPretrained(model)]) {
    expect(await errorOf(open)).toEqual({
      code: 'UNSUPPORTED',
      message:
        `${join(model, 'config.json')} model_type: expected one of ${known.join(', ')}, got "halved". ` +
        'Add other families with registerModel.',
    });
  }
});

describe('once registered', () => {
  beforeAll(() => registerModel(HalvedForCausalLM));

  test('is opened by its model_type, can be trained, and is refused by other families', async () => {
    const opened = await openBase(await loadRecipe(recipeFile, []));
    const Halved = trainable(HalvedForCausalLM);
    expect(opened).toBeInstanceOf(Halved);
    expect([opened.getClassName(), opened.name, opened.modelType]).toEqual(['Halved', 'halved', 'halved']);
    opened.dispose();
    const plain = await logitsOf(QUICKSTART);
    expect(
      (await logitsOf(model)).map((logit, i) => logit - plain[i] / 2).every((error) => error === 0),
    ).toBe(true);
    expect((await errorOf(() => Llama.fromPretrained(model))).message).toMatch(
      'expected "llama", got "halved"',
    );
    expect((await errorOf(() => Halved.fromPretrained(QUICKSTART))).message).toMatch(
      'expected "halved", got "llama"',
    );
  });

  test('is trained, exported, loaded and quantized by the command line', async () => {
    const before = await logitsOf(model);
    const run = async (...line: string[]) =>
      expect(await runCommandLine('--backend', 'wasm', ...line)).toMatchObject({status: 0});
    await run('train', recipeFile);
    await run(
      'export',
      recipeFile,
      `adapter_name_or_path=${join(folder, 'saves')}`,
      `export_dir=${exported}`,
    );
    const names = {model_type: 'halved', architectures: ['HalvedForCausalLM']};
    expect(configOf(exported)).toMatchObject(names);
    expect(readFileSync(join(exported, 'README.md'), 'utf8')).toContain('- halved\n');
    expect(await logitsOf(exported)).not.toEqual(before);
    await run('quantize', exported, join(folder, 'quantized'));
    expect(configOf(join(folder, 'quantized'))).toMatchObject({
      ...names,
      quantization_config: {load_in_4bit: true},
    });
  });
});
