import {mkdirSync, mkdtempSync, rmSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {modelTypes} from '../../models/index.ts';
import {AdamW, Llama, useBackend} from '../../src/index.ts';
import {PagedStates} from '../../src/training/optimizers/index.ts';
import {compilerOptions} from '../../tsconfig.json';
import {expectNoLeak} from '../describeEachBackend.ts';
import {snippets} from './snippets.ts';

/* Runs the modules of docs/extending.md and README.md against the sources. */

const config = {
  vocabSize: 32,
  hiddenSize: 16,
  intermediateSize: 24,
  numHiddenLayers: 2,
  numAttentionHeads: 2,
  maxPositionEmbeddings: 32,
};
const rows = [[1, 2, 3, 4, 5, 6]];
const batch = {inputIds: rows, labels: rows};
const {paths} = compilerOptions;
const root = join(__dirname, '../..');
let folder: string;
// biome-ignore lint/suspicious/noExplicitAny: modules from a page have no types here; snippets.test.ts checks them
let load: (name: string) => any;

beforeAll(async () => {
  await useBackend('cpu');
  mkdirSync(join(root, 'out'), {recursive: true});
  folder = mkdtempSync(join(root, 'out', 'snippets-')); // inside the project, so that its packages are found
  for (const {name, code} of snippets()) {
    const source = code.replace(
      /'(tfjs-lora[\w/]*)'/g,
      (_, subpath: keyof typeof paths) => `'${join(root, ...paths[subpath])}'`,
    );
    if (name) writeFileSync(join(folder, `${name}.ts`), source);
  }
  load = (name) => require(join(folder, `${name}.ts`));
});

afterAll(() => {
  rmSync(folder, {recursive: true, force: true});
});

test('the IA³ layer works in tf.sequential and survives saving', () => {
  const {IA3Dense} = load('ia3Dense');
  const model = tf.sequential({layers: [new IA3Dense({units: 3, inputShape: [2]})]});
  expect(model.trainableWeights.map(({name}) => name)).toEqual([expect.stringContaining('factors')]);
  const copy = tf.Sequential.fromConfig(tf.Sequential, model.getConfig()) as tf.Sequential;
  copy.setWeights(model.getWeights());
  const x = tf.ones([4, 2]);
  const [y, again] = [model, copy].map((one) => one.predict(x) as tf.Tensor);
  expect(again.shape).toEqual([4, 3]);
  expect(again.dataSync()).toEqual(y.dataSync());
});

test('IA³ in a Llama starts equal to it, and trains only its factors', async () => {
  const {applyIA3} = load('ia3Llama');
  const model = Llama.fromConfig(config);
  const before = model.predict(rows).dataSync();
  applyIA3(model);
  expect(model.predict(rows).dataSync()).toEqual(before);
  const names = [0, 1].map((block) => `model.layers.${block}.self_attn.v_proj.factors`);
  expect([...model.trainableParameters().keys()]).toEqual(names);
  model.compile({optimizer: new AdamW({learningRate: 0.1})});
  const {loss: first} = await model.trainOnBatch(batch);
  for (let step = 0; step < 5; step++) await model.trainOnBatch(batch);
  expect((await model.trainOnBatch(batch)).loss).toBeLessThan(first);
  model.dispose();
});

test('the adapter starts equal to its base, trains its core alone, and is saved and loaded', async () => {
  const {LoRAXSDense} = load('loraXS');
  const model = Llama.fromConfig(config, {seed: 1});
  const before = model.predict(rows).dataSync();
  model.applyLoRA({layerClass: LoRAXSDense, rank: 2, targetModules: ['q_proj'], projectionSeed: 5} as never);
  expect(model.predict(rows).dataSync()).toEqual(before);
  expect([...model.trainableParameters().keys()]).toEqual(
    [0, 1].map((block) => `base_model.model.model.layers.${block}.self_attn.q_proj.xs_core`),
  );
  model.compile({optimizer: new AdamW({learningRate: 0.1})});
  for (let step = 0; step < 3; step++) await model.trainOnBatch(batch);
  const trained = model.predict(rows).dataSync();
  expect(trained).not.toEqual(before);
  const files = new Map<string, Blob>();
  await model.saveAdapter(files);
  expect(JSON.parse(await files.get('adapter_config.json')!.text())).toMatchObject({
    peft_type: 'SEEDED_LORA_XS',
    projection_seed: 5,
  });
  const again = Llama.fromConfig(config, {seed: 1});
  await again.loadAdapter(files);
  expect(again.predict(rows).dataSync()).toEqual(trained);
  again.dispose();
  model.dispose();
});

test('the quantizer is near the weights, and stores them exactly', async () => {
  load('rowInt8');
  const model = Llama.fromConfig(config, {seed: 1});
  const plain = model.predict(rows).dataSync();
  await model.quantize('row-int8');
  const logits = model.predict(rows).dataSync();
  expect(logits).not.toEqual(plain);
  expect(Math.max(...logits.map((logit, i) => Math.abs(logit - plain[i])))).toBeLessThan(0.01);
  const files = new Map<string, Blob>();
  await model.save(files);
  expect(JSON.parse(await files.get('config.json')!.text()).quantization_config.quant_method).toBe(
    'row-int8',
  );
  const again = await Llama.fromPretrained(files);
  expect(again.predict(rows).dataSync()).toEqual(logits);
  const options = {type: 'row-int8', blockSize: 32};
  await expect(Llama.fromConfig(config).quantize(options)).rejects.toThrow(
    'row-int8 blockSize: expected no options',
  );
  again.dispose();
  model.dispose();
});

test('the op equals its formula, and its kernel equals the op, forward and gradient', () => {
  const {squaredReLU} = load('squaredReLU');
  const x = tf.tensor2d([-2, -0.5, 0, 0.5, 3, 7], [2, 3]);
  const run = () => tf.valueAndGrad((input) => squaredReLU(input))(x, tf.fill([2, 3], 2));
  const composed = run();
  expect([...composed.value.dataSync()]).toEqual([0, 0, 0, 0.25, 9, 49]);
  expect([...composed.grad.dataSync()]).toEqual([0, 0, 0, 2, 12, 28]); // 2 · 2x
  const {squaredReLUKernel} = load('squaredReLUKernel');
  expect(tf.getKernel('SquaredReLU', 'cpu')).toBe(squaredReLUKernel);
  const fast = run();
  expect(fast.value.dataSync()).toEqual(composed.value.dataSync());
  expect(fast.grad.dataSync()).toEqual(composed.grad.dataSync());
  expectNoLeak(() => squaredReLU(x));
  tf.unregisterKernel('SquaredReLU', 'cpu');
});

test('the model family divides its logits, trains with LoRA and generates', async () => {
  const {ScaledLlama, ScaledLlamaForCausalLM} = load('scaledLlama');
  expect(modelTypes()).toContain('scaled_llama');
  const plain = Llama.fromConfig(config);
  const model = ScaledLlama.fromConfig({...config, source: {logits_scaling: 8}});
  const expected = [...plain.predict(rows).dataSync()].map((logit) => logit / 8);
  const got = [...model.predict(rows).dataSync()] as number[];
  expect(got.map((logit, i) => Math.abs(logit - expected[i])).every((error) => error < 1e-5)).toBe(true);
  model.applyLoRA({rank: 2});
  model.compile({optimizer: new AdamW({learningRate: 0.05})});
  const history = await model.fitDataset([batch], {epochs: 8, verbose: 0});
  expect(history.loss.at(-1)).toBeLessThan(history.loss[0]);
  expect(model.formatConfig('float32')).toMatchObject({logits_scaling: 8});
  expect(model).toBeInstanceOf(ScaledLlamaForCausalLM);
  plain.dispose();
  model.dispose();
});

test('the optimizer moves by the sign of its momentum, paged or not', () => {
  const {Signum} = load('signum');
  for (const states of [undefined, new PagedStates()]) {
    const variable = tf.variable(tf.tensor1d([1, 1, 1]), true, 'signumWeight');
    const signum = new Signum(0.5, 0.9, states);
    signum.applyGradients({signumWeight: tf.tensor1d([3, -0.1, 0])});
    expect([...variable.dataSync()]).toEqual([0.5, 1.5, 1]);
    signum.applyGradients({signumWeight: tf.tensor1d([-0.1, 0.1, 0])}); // momentum 0.26, 0.001
    expect([...variable.dataSync()]).toEqual([0, 1, 1]);
    signum.dispose();
    variable.dispose();
  }
});

test("README's classifier learns other classes, and its base stays as it was", async () => {
  const {adaptClassifier} = load('adaptClassifier');
  const x = tf.randomNormal([48, 4], 0, 1, 'float32', 1);
  const classes = (axis: number) =>
    tf.tidy(() => {
      const [left, right] = x.slice([0, axis], [-1, 2]).greater(0).cast('int32').unstack(1);
      return tf.oneHot(left.mul(2).add(right).cast('int32'), 4);
    });
  const [first, second] = [classes(0), classes(2)];
  const kernelInitializer = tf.initializers.glorotUniform({seed: 2});
  const classifier = tf.sequential({
    layers: [
      tf.layers.dense({name: 'hidden', units: 16, activation: 'relu', inputShape: [4], kernelInitializer}),
      tf.layers.dense({name: 'features', units: 8, activation: 'relu', kernelInitializer}),
      tf.layers.dense({name: 'head', units: 4, activation: 'softmax', kernelInitializer}),
    ],
  });
  const compiled = (model: tf.LayersModel, y: tf.Tensor) => {
    model.compile({optimizer: tf.train.adam(0.02), loss: 'categoricalCrossentropy'});
    return (model.evaluate(x, y) as tf.Scalar).dataSync()[0];
  };
  compiled(classifier, first);
  await classifier.fit(x, first, {epochs: 20, verbose: 0});
  const [before, unlearnt] = [classifier.predict(x) as tf.Tensor, compiled(classifier, second)];
  const files = new Map<string, Blob>();
  const adapted = await adaptClassifier(classifier, x, second, files);
  expect(compiled(adapted, second)).toBeLessThan(0.5 * unlearnt);
  expect([...files.keys()].sort()).toEqual(['adapter_config.json', 'adapter_model.safetensors']);
  expect((classifier.predict(x) as tf.Tensor).dataSync()).toEqual(before.dataSync());
});
