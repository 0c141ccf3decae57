import * as tf from '@tensorflow/tfjs';
import {AdamW, type Batch, type Example, Llama, type StepLog} from '../../../src/index.ts';
import {describeEachBackend, expectNoLeak} from '../../describeEachBackend.ts';
import {expectClose} from '../../expectClose.ts';

const CONFIG = {
  vocabSize: 32,
  hiddenSize: 16,
  intermediateSize: 24,
  numHiddenLayers: 1,
  numAttentionHeads: 4,
  numKeyValueHeads: 2,
  maxPositionEmbeddings: 32,
  initializerRange: 0.3, // with small frozen weights an adapter could learn little
};

/** Makes a tiny model with an adapter whose B is not zero, so that every weight has a gradient. */
function tinyLlama({dropout = 0} = {}): Llama {
  const model = Llama.fromConfig(CONFIG, {seed: 3});
  model.applyLoRA({rank: 2, dropout, targetModules: ['q_proj', 'v_proj', 'down_proj'], seed: 5});
  for (const [key, variable] of model.trainableParameters()) {
    if (key.includes('lora_B'))
      tf.tidy(() => variable.assign(tf.randomNormal(variable.shape, 0, 0.2, 'float32', 1)));
  }
  return model;
}

const sentence = (length: number, step: number): Example => ({
  inputIds: Array.from({length}, (_, t) => (1 + t * step) % 32),
});
const EXAMPLES = [sentence(8, 3), sentence(5, 7), sentence(7, 5), sentence(3, 11), sentence(6, 9)];
const SILENT = {verbose: 0};

/** Makes rows of equal width, in each of which `counted` labels count. */
function batchOf(rows: number[][], counted: number[]): Batch {
  return {
    inputIds: rows,
    labels: rows.map((row, i) => row.map((id, t) => (t > row.length - 1 - counted[i] ? id : -100))),
  };
}
const ROWS = EXAMPLES.slice(0, 3).map(({inputIds}) => [...inputIds, 2, 4, 6, 8].slice(0, 7));

const snapshot = (model: Llama) =>
  [...model.trainableParameters().values()].map((variable) => Array.from(variable.dataSync()));

describeEachBackend('fine-tuning a Llama', () => {
  let model: Llama;
  beforeEach(() => {
    model = tinyLlama();
  });
  afterEach(() => {
    if (!model.isDisposed) model.dispose();
  });

  test('a window equals one big batch, unlike a mean of means', async () => {
    const counted = [6, 1, 3];
    const whole = await model.computeGradients(batchOf(ROWS, counted));
    const parts = ROWS.map((row, i) => batchOf([row], [counted[i]]));
    const window = await model.computeGradients(parts);
    expect(window.tokens).toBe(10);
    expect(window.loss).toBeCloseTo(whole.loss, 5);
    expect(Object.keys(window.gradients)).toEqual([...model.trainableParameters().keys()]);
    for (const [key, gradient] of Object.entries(whole.gradients)) {
      const scale = Math.max(...Array.from(gradient.dataSync(), Math.abs));
      expectClose(window.gradients[key].div(scale), gradient.div(scale), {relative: 1e-5});
    }
    const means = await Promise.all(
      parts.map(async (part) => {
        const {loss, gradients} = await model.computeGradients(part);
        tf.dispose(gradients);
        return loss;
      }),
    );
    const meanOfMeans = means.reduce((sum, loss) => sum + loss) / means.length;
    expect(Math.abs(meanOfMeans - whole.loss)).toBeGreaterThan(1e-3);
    tf.dispose([whole.gradients, window.gradients] as tf.TensorContainer[]);
  });

  test('memorizes examples, and changes only the adapter', async () => {
    const frozen = model.namedParameters().get('model.layers.0.self_attn.q_proj.weight')!;
    const before = Array.from(frozen.read().dataSync());
    model.compile({optimizer: new AdamW({learningRate: 0.05, weightDecay: 0}), schedule: 'constant'});
    const {loss, history} = await model.fitDataset(EXAMPLES, {epochs: 12, batchSize: 5, ...SILENT});
    expect(loss).toHaveLength(12);
    expect(history.loss).toEqual(loss.map((value) => expect.closeTo(value, 6)));
    expect(loss.at(-1)).toBeLessThan(0.6 * loss[0]);
    expect(Array.from(frozen.read().dataSync())).toEqual(before);
    model.trainer.optimizer.dispose();
  });

  test('order and dropout depend only on the seed', async () => {
    const run = async (seed: number, dropout: number, shuffle: boolean) => {
      const trained = tinyLlama({dropout});
      trained.compile({optimizer: 'adamw'});
      const {loss} = await trained.fitDataset(EXAMPLES.slice(0, 4), {batchSize: 2, seed, shuffle, ...SILENT});
      trained.dispose();
      return loss;
    };
    const first = await run(1, 0.4, true);
    expect(await run(1, 0.4, true)).toEqual(first);
    expect(await run(2, 0.4, false)).not.toEqual(await run(3, 0.4, false));
    expect(await run(2, 0, false)).toEqual(await run(3, 0, false));
  });

  test('evaluates as computed by hand from the logits', async () => {
    const {loss, perplexity, tokens} = await model.evaluateDataset(EXAMPLES, {batchSize: 2});
    let [sum, count] = [0, 0];
    for (const {inputIds} of EXAMPLES) {
      const logits = tf.tidy(() => tf.logSoftmax(model.predict([inputIds])).squeeze([0]) as tf.Tensor2D);
      const rows = logits.arraySync();
      logits.dispose();
      for (let t = 1; t < inputIds.length; t++) {
        sum -= rows[t - 1][inputIds[t]];
        count++;
      }
    }
    expect(tokens).toBe(count);
    expect(loss).toBeCloseTo(sum / count, 5);
    expect(perplexity).toBeCloseTo(Math.exp(sum / count), 3);
  });

  test('leaves no tensor after a step, a run, an evaluation or an error', async () => {
    const optimizer = new AdamW({learningRate: 0.01});
    model.compile({optimizer, maxGradNorm: 1});
    await expectNoLeak(async () => {
      await model.trainOnBatch(batchOf(ROWS, [6, 1, 3]));
    });
    await expectNoLeak(async () => {
      await model.fitDataset(EXAMPLES, {batchSize: 2, validationData: EXAMPLES.slice(0, 1), ...SILENT});
    });
    await expectNoLeak(async () => {
      await model.evaluateDataset(EXAMPLES);
    });
    await expectNoLeak(async () => {
      const stop = () => {
        throw new Error('enough');
      };
      await expect(model.fitDataset(EXAMPLES, {callbacks: stop, ...SILENT})).rejects.toThrow('enough');
    });
    await expectNoLeak(async () => {
      const bad = {inputIds: [[1, 99]], labels: [[1, 2]]};
      await expect(model.trainOnBatch([batchOf(ROWS, [6, 1, 3]), bad])).rejects.toMatchObject({
        code: 'VOCABULARY_MISMATCH',
      });
    });
    optimizer.dispose();
  });

  test('everything is freed with the model, including its own optimizer', async () => {
    const run = async () => {
      const other = tinyLlama();
      other.compile({optimizer: 'adamw'});
      await other.trainOnBatch(batchOf(ROWS, [6, 1, 3]));
      other.compile({}); // frees the first
      await other.trainOnBatch(batchOf(ROWS, [6, 1, 3]));
      other.dispose();
    };
    await expectNoLeak(run);
  });

  test('a loss that is not finite changes no weight', async () => {
    const optimizer = new AdamW({learningRate: 0.1});
    model.compile({optimizer});
    const norm = model.namedParameters().get('model.norm.weight')!;
    tf.tidy(() => {
      norm.write(tf.fill([16], Number.NaN));
    });
    const before = snapshot(model);
    const run = model.trainOnBatch(batchOf(ROWS, [6, 1, 3]));
    await expect(run).rejects.toMatchObject({code: 'NON_FINITE'});
    await expect(run).rejects.toThrow('training step 1: expected numbers, got loss NaN');
    expect(snapshot(model)).toEqual(before);
    expect([model.trainer.steps, optimizer.iterations]).toEqual([0, 0]);
    optimizer.dispose();
  });

  test('refuses to train a merged adapter, which would get no gradient', async () => {
    model.compile({optimizer: 'sgd'});
    model.mergeLoRA();
    const batch = batchOf(ROWS, [6, 1, 3]);
    await expect(model.trainOnBatch(batch)).rejects.toMatchObject({
      code: 'UNSUPPORTED',
      message: expect.stringContaining('Call unmergeLoRA() first'),
    });
    model.unmergeLoRA();
    expect((await model.trainOnBatch(batch)).gradNorm).toBeGreaterThan(0);
  });

  test('takes a batch as tensors, which remain the caller’s', async () => {
    const batch = batchOf(ROWS, [6, 1, 3]);
    const asTensors = {
      inputIds: tf.tensor2d(batch.inputIds as number[][], undefined, 'int32'),
      labels: tf.tensor2d(batch.labels as number[][], undefined, 'int32'),
    };
    model.compile({optimizer: 'sgd'});
    const {loss} = await model.fitDataset([asTensors, asTensors], SILENT);
    const other = tinyLlama();
    other.compile({optimizer: 'sgd'});
    expect((await other.fitDataset([batch, batch], SILENT)).loss).toEqual(loss);
    expect(asTensors.labels.isDisposed).toBe(false);
    tf.dispose(asTensors);
    other.dispose();
  });
});

describe('callbacks of a run', () => {
  let model: Llama;
  beforeEach(() => {
    model = tinyLlama();
    model.compile({optimizer: 'sgd'});
  });
  afterEach(() => model.dispose());

  test('are called in Keras’s order, both ours and Keras’s own', async () => {
    const seen: string[] = [];
    class Spy extends tf.Callback {
      override async onTrainBegin() {
        seen.push(`begin ${this.model === model} ${this.params.epochs}`);
      }
      override async onEpochBegin(epoch: number) {
        seen.push(`epoch ${epoch}`);
      }
      override async onBatchBegin(batch: number) {
        seen.push(`batch ${batch}`);
      }
      override async onBatchEnd(batch: number, logs: tf.Logs) {
        seen.push(`batch ${batch} done ${typeof logs.loss}`);
      }
      override async onEpochEnd(epoch: number, logs: tf.Logs) {
        seen.push(`epoch ${epoch} done ${Object.keys(logs)}`);
      }
      override async onTrainEnd() {
        seen.push('end');
      }
    }
    const custom: string[] = [];
    const history = await model.fitDataset(EXAMPLES.slice(0, 3), {
      batchSize: 1,
      gradientAccumulationSteps: 2,
      validationData: EXAMPLES.slice(3),
      callbacks: [
        new Spy(),
        new tf.CustomCallback({
          onEpochEnd: (epoch, logs) => void custom.push(`${epoch} ${Object.keys(logs!)}`),
        }),
        (record: StepLog) =>
          void seen.push(`step ${record.step}/${record.totalSteps} ${record.epoch.toFixed(2)}`),
        {onEvaluate: ({tokens}, step) => void seen.push(`evaluated ${tokens} at ${step}`)},
      ],
      ...SILENT,
    });
    expect(seen).toEqual([
      'begin true 1',
      'epoch 0',
      'batch 0',
      'step 1/2 0.67',
      'batch 0 done number',
      'batch 1',
      'step 2/2 1.00', // the window that is not full
      'batch 1 done number',
      'evaluated 7 at 2',
      'epoch 0 done loss,val_loss',
      'end',
    ]);
    expect(custom).toEqual(['0 loss,val_loss']);
    expect(model.history).toBe(history);
    expect(history.epoch).toEqual([0]);
    const weighted = history.steps.reduce((sum, {loss, tokens}) => sum + loss * tokens, 0) / 17;
    expect(history.history.loss[0]).toBeCloseTo(weighted, 10);
    expect(history.history.val_loss).toEqual([history.evaluations[0].loss]);
  });

  test('Keras’s early stopping stops', async () => {
    model.compile({optimizer: tf.train.sgd(1e-12)}); // no gain to be seen
    const stop = tf.callbacks.earlyStopping({monitor: 'val_loss', patience: 1, minDelta: 1e-3});
    const {epoch} = await model.fitDataset(EXAMPLES.slice(0, 1), {
      epochs: 9,
      validationData: EXAMPLES.slice(1, 2),
      callbacks: stop,
      ...SILENT,
    });
    expect(epoch.length).toBeLessThan(4);
  });

  test('maxSteps alone takes as many epochs as it needs, and validates the last, cut short', async () => {
    const {steps, epoch, evaluations} = await model.fitDataset(EXAMPLES.slice(0, 2), {
      batchSize: 1,
      maxSteps: 3,
      validationData: EXAMPLES.slice(2, 3),
      ...SILENT,
    });
    expect(steps.map((record) => record.epoch)).toEqual([0.5, 1, 1.5]);
    expect(epoch).toEqual([0, 1]);
    expect(evaluations.map(({step}) => step)).toEqual([2, 3]);
  });

  test('an error ends the run: every callback gets it, and the caller too', async () => {
    const seen: unknown[] = [];
    const run = model.fitDataset(EXAMPLES, {
      callbacks: [
        {onTrainError: () => Promise.reject(new Error('another'))},
        {onTrainError: (error) => void seen.push(error), onTrainEnd: () => void seen.push('end')},
        () => Promise.reject(new Error('first')),
      ],
      ...SILENT,
    });
    await expect(run).rejects.toThrow('first');
    expect(seen).toEqual([new Error('first')]);
    await expect(model.fitDataset(EXAMPLES, {callbacks: 'log' as never, ...SILENT})).rejects.toThrow(
      'fitDataset callback 0: expected a callback or a function, got string',
    );
  });

  test.each([
    [[...EXAMPLES, {inputIds: [1, 2, 40]}], 'VOCABULARY_MISMATCH', 'example 5 inputIds'],
    [[sentence(33, 1)], 'INVALID_ARGUMENT', 'example 0: expected at most 32 tokens'],
    [[EXAMPLES[0], {inputIds: [4]}], 'INVALID_ARGUMENT', 'example 1 labels'],
    [[], 'INVALID_ARGUMENT', 'expected at least one example'],
  ])('data %# is refused before work begins', async (data, code, message) => {
    const begin = jest.fn();
    const run = model.fitDataset(data as Example[], {callbacks: {onTrainBegin: begin}, ...SILENT});
    await expect(run).rejects.toMatchObject({code, message: expect.stringContaining(message)});
    await expect(
      model.fitDataset(EXAMPLES, {
        validationData: data as Example[],
        callbacks: {onTrainBegin: begin},
        ...SILENT,
      }),
    ).rejects.toMatchObject({code});
    expect(begin).not.toHaveBeenCalled();
  });

  test.each([true, false])('progress on a terminal: %s', async (isTTY) => {
    let text = '';
    const progressStream = {
      isTTY,
      columns: 100,
      write: (part: string) => {
        text += part;
        return true;
      },
      on() {},
      removeListener() {},
    };
    await model.fitDataset(EXAMPLES, {batchSize: 2, validationData: EXAMPLES.slice(0, 1), progressStream});
    if (isTTY) expect(text).toMatch(/█.* 3\/3 loss \d\.\d{4} lr 1\.00e-2 \d+ tok\/s/);
    else expect(text).toMatch(/^step 1\/3 loss \d\.\d{4} lr 1\.00e-2 \d+ tok\/s .*\n(.*\n)*step 3\/3 loss/);
    expect(text).toMatch(isTTY ? /val/ : /validation loss \d\.\d{4} perplexity/);
  });
});
