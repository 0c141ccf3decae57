import {join, resolve} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {unpackMatrix} from '../../../layers/ops/unpackMatrix.ts';
import {LlamaForCausalLM} from '../../../models/llama/llama.ts';
import type {InitializeLoRAOptions} from '../../../models/peft/initialization/initializeLoRAOptions.ts';
import type {LoRAOptions} from '../../../models/peft/loraOptions.ts';
import {setWarningHandler} from '../../../quant/warn.ts';
import {describeFastBackends} from '../../describeEachBackend.ts';
import {errorOf} from '../../models/tinyLlama.ts';
import {expectClose, FIXTURES, goldenNamed, logitsOf, readGoldens, readJson} from '../golden.ts';

const FOLDER = resolve('test/parity/initialization/fixtures');
const {layer, ids} = readJson<{layer: string; ids: number[][]}>('../initialization/fixtures/manifest.json');
const expected = readGoldens(join(FOLDER, 'expected.safetensors'));
const inputs = {inputIds: ids, labels: ids};
const QV: LoRAOptions = {rank: 4, alpha: 6, targetModules: ['q_proj', 'v_proj']};
const CASES: [string, LoRAOptions, InitializeLoRAOptions][] = [
  ['pissa', QV, {method: 'pissa'}],
  ['pissa-rslora', {...QV, useRsLoRA: true, rankPattern: {v_proj: 3}}, {method: 'pissa_niter_16'}],
  ['olora', QV, {method: 'olora'}],
  ['loftq', QV, {method: 'loftq', loftqIterations: 3}],
];

describeFastBackends('initializeLoRA equals PEFT', () => {
  let model: LlamaForCausalLM;
  let tensorsBefore: number;
  let restoreHandler: () => void;
  const warnings: string[] = [];
  beforeEach(async () => {
    warnings.length = 0;
    const before = setWarningHandler((message) => warnings.push(message));
    restoreHandler = () => setWarningHandler(before);
    tensorsBefore = tf.memory().numTensors;
    model = await LlamaForCausalLM.fromPretrained(join(FIXTURES, 'models/tied-gqa-llama3'));
  });
  afterEach(() => {
    restoreHandler();
    model.dispose();
    expect(tf.memory().numTensors).toBe(tensorsBefore);
  });

  async function expectLogits(other: LlamaForCausalLM, name: string): Promise<void> {
    const logits = logitsOf(other, inputs);
    await expectClose(logits, goldenNamed(expected, name), 2e-5);
    logits.dispose();
  }

  async function expectMatrix(make: () => tf.Tensor, name: string): Promise<void> {
    const matrix = tf.tidy(make);
    await expectClose(matrix, goldenNamed(expected, name), 2e-5);
    matrix.dispose();
  }

  test.each(CASES)('%s: the base and the first update', async (name, lora, options) => {
    const reports: number[] = [];
    await model.applyLoRA(lora).initializeLoRA({...options, onProgress: ({done}) => reports.push(done)});
    const adapted = model.adaptedLayers().get(layer)!;
    await expectMatrix(() => unpackMatrix(adapted.base.weight.matrix()), `${name}:base`);
    await expectMatrix(() => {
      const {a, b} = adapted.adapter().factors();
      return tf.mul(tf.matMul(b, a), adapted.adapter().scaling);
    }, `${name}:update`);
    expect(reports).toEqual([1, 2, 3, 4]);
  });

  test('the weight of an adapter does not change what it starts with', async () => {
    model.applyLoRA(QV).setAdapter({default: 0});
    await model.initializeLoRA({method: 'pissa'});
    const adapted = model.adaptedLayers().get(layer)!;
    await expectMatrix(() => unpackMatrix(adapted.base.weight.matrix()), 'pissa:base');
  });

  test.each(CASES)('%s: a trained adapter loads, and is saved for the same base', async (name) => {
    await model.loadAdapter(join(FOLDER, name));
    await expectLogits(model, `${name}:logits`);
    const files = new Map<string, Blob>();
    await model.saveAdapter(files);
    const again = await LlamaForCausalLM.fromPretrained(join(FIXTURES, 'models/tied-gqa-llama3'));
    try {
      await again.loadAdapter(files);
      await expectLogits(again, `${name}:logits`);
    } finally {
      again.dispose();
    }
  });

  test.each(['pissa', 'olora'])('%s: converted to plain LoRA for the unchanged base', async (name) => {
    await model.loadAdapter(join(FOLDER, name));
    const files = new Map<string, Blob>();
    await model.saveAdapter(files, 'default', {convertToLoRA: true});
    const config = JSON.parse(await files.get('adapter_config.json')!.text()) as Record<string, unknown>;
    expect(config).toMatchObject({r: 8, lora_alpha: 12, init_lora_weights: true});
    const plain = await LlamaForCausalLM.fromPretrained(join(FIXTURES, 'models/tied-gqa-llama3'));
    try {
      await plain.loadAdapter(files);
      await expectLogits(plain, `${name}:logits`);
    } finally {
      plain.dispose();
    }
  });

  test('what was initialized here is saved with its method, and loads again', async () => {
    await model.applyLoRA(QV).initializeLoRA({method: 'loftq', loftqBits: 8, loftqIterations: 2});
    const before = logitsOf(model, inputs);
    const files = new Map<string, Blob>();
    await model.saveAdapter(files);
    const config = JSON.parse(await files.get('adapter_config.json')!.text()) as Record<string, unknown>;
    expect(config).toMatchObject({init_lora_weights: 'loftq', loftq_config: {loftq_bits: 8, loftq_iter: 2}});
    const again = await LlamaForCausalLM.fromPretrained(join(FIXTURES, 'models/tied-gqa-llama3'));
    try {
      await again.loadAdapter(files);
      const logits = logitsOf(again, inputs);
      const difference = tf.tidy(() => tf.max(tf.abs(tf.sub(logits, before))));
      expect((await difference.data())[0]).toBeLessThan(1e-5);
      tf.dispose([logits, difference, before]);
    } finally {
      again.dispose();
    }
  });

  test('orthogonal: matrices of the right size whose product is 0', async () => {
    await model.applyLoRA({...QV, rank: 8}).initializeLoRA({method: 'orthogonal', seed: 3});
    const {loraA, loraB} = model.adaptedLayers().get(layer)!.adapter();
    const [a, product] = tf.tidy(() => {
      const update = tf.matMul(loraB.read() as tf.Tensor2D, loraA.read() as tf.Tensor2D);
      return [tf.moments(loraA.read()).variance.sqrt(), tf.max(tf.abs(update))];
    });
    expect((await product.data())[0]).toBeLessThan(1e-6);
    expect((await a.data())[0]).toBeGreaterThan(0.03);
    expect((await a.data())[0]).toBeLessThan(0.15);
    tf.dispose([a, product]);
  });

  test('mica: B has the left vectors of the smallest singular values, and A is 0', async () => {
    await model.applyLoRA({...QV, freezeB: true}).initializeLoRA({method: 'mica'});
    const {base, adapters} = model.adaptedLayers().get(layer)!;
    const {loraA, loraB} = adapters.get('default')!;
    const [gram, passed, size] = tf.tidy(() => {
      const b = loraB.read() as tf.Tensor2D; // [units, 4]
      const weight = unpackMatrix(base.weight.matrix());
      const through = tf.norm(tf.matMul(b, weight, true));
      return [tf.norm(tf.sub(tf.matMul(b, b, true), tf.eye(4))), through, tf.norm(weight)];
    });
    expect((await gram.data())[0]).toBeLessThan(1e-5);
    expect((await passed.data())[0] / (await size.data())[0]).toBeLessThan(0.2); // any four vectors: 0.35
    expect((await loraA.read().data()).every((value) => value === 0)).toBe(true);
    expect([...model.trainableParameters().keys()].every((key) => key.includes('lora_A'))).toBe(true);
    tf.dispose([gram, passed, size]);
  });

  test.each<[string, LoRAOptions, InitializeLoRAOptions, string]>([
    [
      'a method',
      QV,
      {method: 'kaiming' as 'pissa'},
      'method: expected pissa, olora, loftq, orthogonal, mica, eva, corda, lora_ga, pissa_niter_<n>',
    ],
    ['bits', QV, {method: 'loftq', loftqBits: 3 as 4}, 'loftqBits: expected 4 or 8, got 3'],
    ['iterations', QV, {method: 'loftq', loftqIterations: 0}, 'loftqIterations: expected a positive integer'],
    ['an odd rank', {...QV, rank: 3}, {method: 'orthogonal'}, 'expected an even rank, got 3'],
    ['a trained B', QV, {method: 'mica'}, 'expected applyLoRA({freezeB: true})'],
  ])('refuses %s', async (_, lora, options, message) => {
    model.applyLoRA(lora);
    expect((await errorOf(() => model.initializeLoRA(options)))?.message).toContain(message);
  });

  test('refuses what the changed base would spoil', async () => {
    model.applyLoRA(QV).applyLoRA({...QV, adapterName: 'second'});
    const pissa = (adapterName?: string) =>
      errorOf(() => model.initializeLoRA({method: 'pissa', adapterName}));
    expect((await pissa('second'))?.message).toContain(
      'expected no other adapter, because the base changes, got default',
    );
    model.deleteAdapter('default');
    await model.initializeLoRA({method: 'pissa', adapterName: 'second'});
    expect((await pissa('second'))?.message).toContain('expected one that has not changed its base');
    expect((await errorOf(() => model.applyLoRA(QV)))?.message).toContain(
      'expected an unchanged base, got one that pissa',
    );
    model.deleteAdapter('second');
    expect(warnings).toEqual([expect.stringContaining('pissa had changed the base')]);
    expect((await errorOf(() => model.applyLoRA(QV)))?.message).toContain('expected an unchanged base');
  });

  test('fusing puts back what was taken from the base; a quantized base is refused, and nothing changes', async () => {
    const before = logitsOf(model, inputs);
    await model.applyLoRA(QV).initializeLoRA({method: 'pissa'});
    model.fuseLoRA();
    const after = logitsOf(model, inputs);
    await expectClose(after, {values: (await before.data()) as Float32Array, shape: before.shape}, 1e-5);
    tf.dispose([before, after]);
    await model.applyLoRA(QV).quantize('nf4');
    const error = await errorOf(() => model.initializeLoRA({method: 'pissa'}));
    expect(error?.message).toContain('expected a base that is not quantized, got nf4');
    const {signal} = {signal: AbortSignal.abort(new Error('enough'))};
    await expect(model.initializeLoRA({method: 'orthogonal', signal})).rejects.toThrow('enough');
  });
});
