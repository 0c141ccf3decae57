import {cp, mkdtemp, readFile, rm, writeFile} from 'node:fs/promises';
import {tmpdir} from 'node:os';
import {join, resolve} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {LlamaForCausalLM} from '../../models/llama/llama.ts';
import {SafetensorsFile} from '../../quant/safetensors/safetensorsFile.ts';
import {setWarningHandler} from '../../quant/warn.ts';
import {describeEachBackend} from '../describeEachBackend.ts';
import {errorOf} from '../models/tinyLlama.ts';
import {expectClose, type GoldenInputs, goldenNamed, logitsOf, readGoldens, readJson} from './golden.ts';

const FOLDER = resolve('test/parity/loading/fixtures');
const {inputs, adapters, models} = readJson<{inputs: GoldenInputs; adapters: string[]; models: string[]}>(
  '../loading/fixtures/manifest.json',
);
const expected = readGoldens(join(FOLDER, 'expected.safetensors'));
const load = (folder: string) => LlamaForCausalLM.fromPretrained(folder);

let folder: string;
let warnings: string[];
let restoreHandler: () => void;
let tensorsBefore: number;

beforeEach(async () => {
  tensorsBefore = tf.memory().numTensors;
  folder = await mkdtemp(join(tmpdir(), 'tfjs-lora-'));
  warnings = [];
  const before = setWarningHandler((message) => warnings.push(message));
  restoreHandler = () => setWarningHandler(before);
});

afterEach(async () => {
  restoreHandler();
  await rm(folder, {recursive: true});
  expect(tf.memory().numTensors).toBe(tensorsBefore);
});

async function expectLogits(model: LlamaForCausalLM, name: string): Promise<void> {
  const logits = logitsOf(model, inputs);
  await expectClose(logits, goldenNamed(expected, name), 1e-5);
  logits.dispose();
}

const configOf = async (path: string) =>
  JSON.parse(await readFile(join(path, 'adapter_config.json'), 'utf8')) as Record<string, unknown>;

describeEachBackend('an adapter of PEFT', () => {
  const adapter = (name: string) => join(FOLDER, 'adapters', name);

  test.each(adapters)('%s: loads as in PEFT, and is saved with its config', async (name) => {
    const model = await load(join(FOLDER, 'base'));
    await model.loadAdapter(adapter(name));
    await expectLogits(model, `adapters/${name}`);
    await model.saveAdapter(folder);
    expect(await configOf(folder)).toEqual(await configOf(adapter(name)));
    model.dispose();

    const again = await load(join(FOLDER, 'base'));
    await again.loadAdapter(folder);
    await expectLogits(again, `adapters/${name}`);
    again.dispose();
  });

  test('trains only A with MiCA', async () => {
    const model = await load(join(FOLDER, 'base'));
    await model.loadAdapter(adapter('init-mica'), {trainable: true});
    const trained = () => [...model.trainableParameters().keys()];
    expect(trained()).toHaveLength(4);
    expect(trained().every((key) => key.endsWith('.lora_A.weight'))).toBe(true);
    model.setAdapter('default');
    expect(trained()).toHaveLength(4);
    model.dispose();
  });

  test("accepts the model's own head silently; another one replaces the model's, with a warning", async () => {
    const model = await load(join(FOLDER, 'base'));
    await model.loadAdapter(adapter('head'), {adapterName: 'same'});
    expect(warnings).toEqual([]);
    model.deleteAdapter('same');
    await expectLogits(model, 'base');
    await model.loadAdapter(adapter('head-changed'));
    expect(warnings).toEqual([
      expect.stringMatching(/its own lm_head\.weight differs from the model's and replaces it, as in PEFT/),
    ]);
    model.dispose();
  });

  test.each(['head', 'head-changed'])('%s: replaces the table that a tied head shares', async (name) => {
    const model = await load(join(FOLDER, 'models', 'tied-equal'));
    await model.loadAdapter(adapter(name));
    await expectLogits(model, `tied-equal/${name}`);
    expect(warnings).toEqual([
      expect.stringMatching(/its own model\.embed_tokens\.weight differs from the model's and replaces it/),
    ]);
    model.dispose();
  });

  test('refuses a base weight that does not fit, and does not change the model', async () => {
    const base = await load(join(FOLDER, 'base'));
    await cp(adapter('head-changed'), folder, {recursive: true});
    const config = {...(await configOf(folder)), target_modules: ['q_proj']};
    await writeFile(join(folder, 'adapter_config.json'), JSON.stringify(config));
    expect(await errorOf(() => base.loadAdapter(folder))).toMatchObject({code: 'UNEXPECTED_TENSOR'});
    await expectLogits(base, 'base');
    await base.quantize({type: 'nf4', skipModules: []});
    expect(await errorOf(() => base.loadAdapter(adapter('head')))).toMatchObject({
      code: 'UNSUPPORTED',
      message: expect.stringContaining('got one of the model, which is quantized here'),
    });
    base.dispose();
  });

  test('says how to convert weights that are only in a .bin', async () => {
    const model = await load(join(FOLDER, 'base'));
    await cp(join(adapter('head'), 'adapter_config.json'), join(folder, 'adapter_config.json'));
    await writeFile(join(folder, 'adapter_model.bin'), 'PK');
    expect(await errorOf(() => model.loadAdapter(folder))).toEqual({
      code: 'UNSUPPORTED',
      message: expect.stringMatching(
        /adapter_model\.bin: expected adapter_model\.safetensors, .*torch\.load\('adapter_model\.bin'.*save_file/,
      ),
    });
    model.dispose();
  });
});

describeEachBackend('a model of transformers', () => {
  test.each(models)('%s: loads as in transformers, and is saved so that it loads again', async (name) => {
    const model = await load(join(FOLDER, 'models', name));
    await expectLogits(model, `models/${name}`);
    await model.save(folder);
    const {tie_word_embeddings: isTied} = JSON.parse(await readFile(join(folder, 'config.json'), 'utf8'));
    expect(isTied).toBe(['no-prefix', 'tied-equal', 'tied-head-only'].includes(name));
    const file = SafetensorsFile.open(join(folder, 'model.safetensors'));
    expect(file.has('lm_head.weight')).toBe(!isTied);
    expect(file.has('model.embed_tokens.weight')).toBe(true);
    file.close();
    model.dispose();
    const again = await load(folder);
    await expectLogits(again, `models/${name}`);
    again.dispose();
  });

  test('reports what it leaves out, and that a head is not tied', async () => {
    (await load(join(FOLDER, 'models', 'value-head'))).dispose();
    (await load(join(FOLDER, 'models', 'tied-differs'))).dispose();
    (await load(join(FOLDER, 'models', 'tied-equal'))).dispose();
    expect(warnings).toEqual([
      expect.stringMatching(/v_head\.summary\.bias, v_head\.summary\.weight/),
      expect.stringMatching(/tie_word_embeddings.*lm_head\.weight/),
    ]);
  });
});
