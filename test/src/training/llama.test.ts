import {mkdtempSync, rmSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {AdamW, type Example, Llama, setWarningHandler} from '../../../src/index.ts';

const CONFIG = {
  vocabSize: 11,
  hiddenSize: 16,
  intermediateSize: 24,
  numHiddenLayers: 1,
  numAttentionHeads: 4,
  numKeyValueHeads: 2,
  maxPositionEmbeddings: 12,
};
const EXAMPLES: Example[] = [{inputIds: [1, 2, 3, 4]}, {inputIds: [5, 6, 7]}];
const BATCH = {inputIds: [[1, 2, 3, 4]], labels: [[1, 2, 3, 4]]};

describe('Llama as a Keras model', () => {
  let model: Llama;
  beforeAll(() => tf.setBackend('cpu'));
  beforeEach(() => {
    model = Llama.fromConfig(CONFIG, {seed: 1});
    model.applyLoRA({rank: 2, targetModules: 'all-linear', seed: 2});
  });
  afterEach(() => {
    if (!model.isDisposed) model.dispose();
  });

  test('is a LayersModel with its optimizer, which may be replaced', async () => {
    expect(model).toBeInstanceOf(tf.LayersModel);
    expect(model.optimizer).toBeInstanceOf(AdamW);
    const optimizer = new AdamW({learningRate: 1e-2});
    model.compile({optimizer});
    expect(model.optimizer).toBe(optimizer);
    expect((await model.trainOnBatch(BATCH)).learningRate).toBe(1e-2);
    const other = tf.train.adam(1e-3);
    model.optimizer = other;
    expect((await model.trainOnBatch(BATCH)).learningRate).toBe(1e-3);
    optimizer.dispose();
    other.dispose();
  });

  test('gives gradients under the names and in the shapes of a PEFT file', async () => {
    const {gradients} = await model.computeGradients(BATCH);
    expect(Object.keys(gradients)).toHaveLength(14);
    const at = 'base_model.model.model.layers.0.self_attn';
    expect(gradients[`${at}.k_proj.lora_A.weight`].shape).toEqual([2, 16]);
    expect(gradients[`${at}.k_proj.lora_B.weight`].shape).toEqual([8, 2]);
    tf.dispose(gradients);
  });

  test('trains in full without an adapter, and not at all when frozen', async () => {
    const bare = Llama.fromConfig(CONFIG, {seed: 1});
    const first = await bare.trainOnBatch(BATCH);
    for (let step = 0; step < 20; step++) await bare.trainOnBatch(BATCH);
    expect((await bare.trainOnBatch(BATCH)).loss).toBeLessThan(first.loss);
    for (const layer of bare.layers) layer.trainable = false;
    await expect(bare.trainOnBatch(BATCH)).rejects.toThrow('Call applyLoRA() first');
    bare.dispose();
  });

  test('warns when only the norms of a 16-bit base would train', async () => {
    const warnings: string[] = [];
    const restore = setWarningHandler((message) => warnings.push(message));
    try {
      const bare = Llama.fromConfig(CONFIG, {seed: 1, dtype: 'bfloat16'});
      await bare.trainOnBatch(BATCH);
      await bare.trainOnBatch(BATCH);
      expect(warnings).toEqual([
        expect.stringMatching(/Only norms and biases train, 48 of \d+ parameters\. Call applyLoRA\(\) first/),
      ]);
      await bare.fitDataset(EXAMPLES, {verbose: 0});
      expect(warnings.splice(0)).toHaveLength(2);
      bare.applyLoRA({rank: 2});
      await bare.trainOnBatch(BATCH);
      await bare.fitDataset(EXAMPLES, {verbose: 0});
      bare.dispose();
      await model.fitDataset(EXAMPLES, {verbose: 0}); // float32 under an adapter
      expect(warnings).toEqual([]);
    } finally {
      setWarningHandler(restore);
    }
  });

  test('refuses unsupported calls, with advice', async () => {
    expect(() => model.compile({optimizer: 'sgd', loss: 'meanSquaredError'})).toThrow(
      "Leave it out for the model's own: cross-entropy over the labels.",
    );
    await expect(model.fit()).rejects.toThrow('fitDataset');
    expect(() => model.evaluate()).toThrow('evaluateDataset');
  });

  test('cannot be changed during training, and can be afterwards', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'tfjs-lora-busy-'));
    await model.saveAdapter(folder);
    const weights = model.getWeights();
    const calls: Record<string, () => unknown> = {
      applyLoRA: () => model.applyLoRA({adapterName: 'second'}),
      loadAdapter: () => model.loadAdapter(folder, {adapterName: 'third'}),
      setAdapter: () => model.setAdapter('default'),
      mergeLoRA: () => model.mergeLoRA(),
      unmergeLoRA: () => model.unmergeLoRA(),
      setWeights: () => model.setWeights(weights),
      quantize: () => model.quantize({type: 'nf4'}),
      dequantize: () => model.dequantize(),
      compile: () => model.compile({optimizer: 'sgd'}),
      optimizer: () => {
        model.optimizer = tf.train.sgd(0.1);
      },
      trainOnBatch: () => model.trainOnBatch(BATCH),
      deleteAdapter: () => model.deleteAdapter('default'),
      fuseLoRA: () => model.fuseLoRA(),
    };
    const args = {epochs: 1, batchSize: 1, verbose: 0};
    const undisturbed = (await model.fitDataset(EXAMPLES, args)).steps.map(({loss}) => loss);
    model.dispose();
    model = Llama.fromConfig(CONFIG, {seed: 1});
    model.applyLoRA({rank: 2, targetModules: 'all-linear', seed: 2});

    const outcomes: Record<string, unknown> = {};
    let late: Promise<unknown> | undefined;
    const early = model.loadAdapter(folder, {adapterName: 'early'}).catch((error) => error); // ends while it trains
    const {steps} = await model.fitDataset(EXAMPLES, {
      ...args,
      callbacks: async ({step}) => {
        if (step > 1) return;
        await early;
        late = model.fitDataset(EXAMPLES, args).catch((error) => error);
        for (const [name, call] of Object.entries(calls)) {
          outcomes[name] = await Promise.resolve()
            .then(call)
            .catch((error) => error);
        }
        await model.saveAdapter(join(folder, 'saved')); // reading is allowed
        await model.evaluateDataset(EXAMPLES);
      },
    });
    for (const name of Object.keys(calls)) {
      expect(outcomes[name]).toMatchObject({
        code: 'UNSUPPORTED',
        message: expect.stringContaining(
          `${name}: expected an idle model, got one that fitDataset is working on`,
        ),
      });
    }
    for (const refused of [early, late])
      expect((await refused) as object).toMatchObject({code: 'UNSUPPORTED'});
    expect(steps.map(({loss}) => loss)).toEqual(undisturbed);
    expect(model.adapterNames).toEqual(['default']);
    rmSync(folder, {recursive: true});
    model.applyLoRA({adapterName: 'second', rank: 1});
    expect(await model.trainOnBatch(BATCH)).toMatchObject({loss: expect.any(Number)});
  });

  test('is busy while it is quantized, so a call that does not wait trains nothing', async () => {
    const quantized = model.quantize('nf4');
    await expect(model.trainOnBatch(BATCH)).rejects.toThrow(
      'trainOnBatch: expected an idle model, got one that quantize is working on. Await quantize first.',
    );
    await quantized;
    expect(await model.trainOnBatch(BATCH)).toMatchObject({loss: expect.any(Number)});
  });

  test('may be changed again after a training that failed', async () => {
    const callbacks = () => {
      throw new Error('mine');
    };
    await expect(model.fitDataset(EXAMPLES, {verbose: 0, callbacks})).rejects.toThrow('mine');
    model.compile({optimizer: 'sgd'});
    model.mergeLoRA();
  });

  test('refuses everything once disposed', async () => {
    model.dispose();
    expect(() => model.compile({})).toThrow('expected a live model, got one after dispose()');
    await expect(model.fitDataset(EXAMPLES)).rejects.toMatchObject({code: 'DISPOSED'});
    await expect(model.trainOnBatch(BATCH)).rejects.toMatchObject({code: 'DISPOSED'});
    await expect(model.evaluateDataset(EXAMPLES)).rejects.toMatchObject({code: 'DISPOSED'});
    await expect(model.computeGradients(BATCH)).rejects.toMatchObject({code: 'DISPOSED'});
  });
});
