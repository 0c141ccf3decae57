import * as tf from '@tensorflow/tfjs';
import {setBackendTraits} from '../../layers/ops/backendTraits.ts';
import {QuantizedDense} from '../../layers/quantizedDense.ts';
import {generateIds} from '../../models/generation/generate.ts';
import {AdamW, AdamW8bit, Llama, PagedAdamW} from '../../src/index.ts';
import {expectNoLeak} from '../describeEachBackend.ts';
import {errorOf, tinyConfig, tinyIds} from '../models/tinyLlama.ts';
import {DeviceBackend} from './training/optimizers/deviceBackend.ts';

/**
 * A backend whose tensors are read only by waiting, as WebGPU's: `dataSync` throws, and with it `arraySync` and
 * `bufferSync`. What its kernels do among themselves is their own business.
 */
beforeAll(async () => {
  await DeviceBackend.use('late');
  setBackendTraits(tf.backend(), {readsAtOnce: false});
  const {dataSync} = tf.Tensor.prototype;
  tf.Tensor.prototype.dataSync = function <D extends keyof tf.DataTypeMap>(this: tf.Tensor) {
    if (tf.getBackend() === 'late') throw new Error('no synchronous reads');
    return dataSync.call(this) as tf.DataTypeMap[D];
  };
});

const rows = {inputIds: tinyIds, labels: tinyIds};
const example = {inputIds: tinyIds[0], labels: tinyIds[0]};
const tensors = () => ({
  inputIds: tf.tensor2d(tinyIds, undefined, 'int32'),
  labels: tf.tensor2d(tinyIds, undefined, 'int32'),
});

const fresh = () => Llama.fromConfig(tinyConfig) as Llama;
const adapted = () => fresh().applyLoRA({rank: 2, dropout: 0.1, seed: 1}) as Llama;

describe('where nothing can be read at once', () => {
  let before: number;
  beforeEach(() => {
    before = tf.memory().numTensors;
  });
  afterEach(() => expect(tf.memory().numTensors).toBe(before));

  test('the backend refuses it', () => {
    tf.tidy(() => expect(() => tf.scalar(1).dataSync()).toThrow('no synchronous reads'));
  });

  test.each([
    ['AdamW', () => new AdamW({learningRate: 0.05})],
    ['AdamW8bit', () => new AdamW8bit({learningRate: 0.05})],
    ['PagedAdamW', () => new PagedAdamW({learningRate: 0.05})],
  ])('a model trains with %s, is measured and writes', async (_, optimizer) => {
    const model = adapted();
    const used = optimizer();
    model.compile({optimizer: used, maxGradNorm: 1});
    const history = await model.fitDataset(Array(6).fill(example), {
      batchSize: 2,
      epochs: 3,
      validationData: [example],
    });
    expect(history.steps.at(-1)!.loss).toBeLessThan(history.steps[0].loss);
    const batch = tensors();
    expect((await model.trainOnBatch(batch)).loss).toBeGreaterThan(0);
    expect((await model.evaluateDataset([batch])).tokens).toBe(8);
    const {gradients} = await model.computeGradients(batch);
    tf.dispose([gradients, batch] as tf.TensorContainer);
    expect(await generateIds(model, [[1, 2, 3]], {maxNewTokens: 3})).toEqual([
      Array(3).fill(expect.any(Number)),
    ]);
    used.dispose();
    model.dispose();
  });

  test('adapters are saved, loaded and merged, models quantized and saved', async () => {
    const model = adapted();
    const files = new Map<string, Blob>();
    await model.saveAdapter(files);
    const other = fresh();
    await other.loadAdapter(files);
    await other.quantize({type: 'nf4'});
    other.mergeLoRA({dequantize: true});
    await other.save(new Map());
    model.mergeLoRA();
    model.unmergeLoRA();
    model.dispose();
    other.dispose();
  });

  test('a quantized layer draws its first weights', async () => {
    const layer = new QuantizedDense({units: 4, quantization: {type: 'nf4'}, inputShape: [64]});
    const model = tf.sequential({layers: [layer]});
    const values = (await layer.weight.readMatrix()).dequantize();
    expect(Math.max(...values)).toBeGreaterThan(0.1);
    expect(tf.getBackend()).toBe('late');
    expectNoLeak(() => tf.tidy(() => model.predict(tf.ones([2, 64]))));
    model.dispose();
  });

  test('a tensor that would have to be read at once is refused, with what to do', async () => {
    const model = fresh();
    const batch = tensors();
    expect(await errorOf(() => model.lossSum(batch))).toEqual({
      code: 'UNSUPPORTED',
      message:
        'batch inputIds: expected rows of numbers, got a tensor on late, which cannot be read synchronously. ' +
        'Pass rows, or use trainOnBatch, computeGradients or evaluateDataset, which read asynchronously.',
    });
    expect((await errorOf(() => model.targetCount(batch))).code).toBe('UNSUPPORTED');
    const positionIds = tf.tensor2d(tinyIds, undefined, 'int32');
    const {code, message} = await errorOf(() => model.predict(batch.inputIds, {positionIds}));
    expect([code, message]).toEqual(['UNSUPPORTED', expect.stringContaining('positionIds: expected rows')]);
    tf.dispose([
      model.predict(batch.inputIds),
      model.lossSum(rows),
      positionIds,
      batch,
    ] as tf.TensorContainer);
    model.dispose();
  });
});
