import * as tf from '@tensorflow/tfjs';
import {declareQuantized} from '../../../models/quantization.ts';
import {AdamW, estimateMemory, type FitArgs, Llama, Trainer, useBackend} from '../../../src/index.ts';
import {BigramModel} from './bigramModel.ts';

/** How far an estimate may be from the measured peak. */
const TOLERANCE = 0.25;

const SHAPE = {
  vocabSize: 128,
  hiddenSize: 32,
  intermediateSize: 96,
  numHiddenLayers: 2,
  numAttentionHeads: 4,
  numKeyValueHeads: 2,
  maxPositionEmbeddings: 256,
  tieWordEmbeddings: true,
};

interface Case {
  shape?: Partial<typeof SHAPE>;
  lora?: object | false;
  dtype?: 'bfloat16';
  quantization?: {type: 'nf4'; doubleQuant: boolean};
  batch?: [rows: number, length: number];
  windows?: number;
}

const CASES: Record<string, Case> = {
  'all linear layers': {},
  'more layers': {shape: {numHiddenLayers: 5}},
  'longer rows': {batch: [1, 128]},
  'a wide feed-forward': {shape: {intermediateSize: 256}},
  'a large vocabulary': {shape: {vocabSize: 4096}},
  'a rank of 16': {lora: {rank: 16}},
  'two targets': {lora: {rank: 8, targetModules: ['q_proj', 'v_proj']}},
  dropout: {lora: {rank: 8, dropout: 0.1}},
  DoRA: {lora: {rank: 8, useDoRA: true}},
  'every weight': {lora: false},
  'bfloat16 weights': {dtype: 'bfloat16'},
  'nf4 weights': {quantization: {type: 'nf4', doubleQuant: true}},
  'several batches in a window': {windows: 3},
};

/** The most bytes in tensors at once while something runs. */
async function peakOf(run: () => Promise<unknown>): Promise<number> {
  const engine = tf.engine() as unknown as {
    trackTensor: (...args: unknown[]) => void;
    state: {numBytes: number};
  };
  const original = engine.trackTensor;
  let peak = 0;
  engine.trackTensor = function (this: unknown, ...args) {
    original.apply(this, args);
    peak = Math.max(peak, engine.state.numBytes);
  };
  try {
    await run();
  } finally {
    engine.trackTensor = original;
  }
  return peak;
}

beforeAll(async () => {
  await useBackend('wasm');
}); // bytes are counted alike on every backend

describe('estimateMemory', () => {
  const names = Object.keys(CASES);
  test.each(names.flatMap((name) => [true, false].map((recomputed) => ({name, recomputed}))))(
    'is near the measured peak: $name, recomputed $recomputed',
    async ({name, recomputed}) => {
      const {shape, lora, dtype, quantization, batch: [rows, length] = [2, 48], windows = 1} = CASES[name];
      const others = tf.memory().numBytes;
      const model = Llama.fromConfig({...SHAPE, ...shape}, {seed: 0, dtype});
      if (quantization) await model.quantize(quantization);
      if (lora !== false) model.applyLoRA({rank: 8, ...lora});
      model.gradientCheckpointing = recomputed;
      const optimizer = new AdamW({learningRate: 1e-4});
      model.compile({optimizer});
      const inputIds = Array.from({length: rows}, (_, b) =>
        Array.from({length}, (_, t) => (b * 97 + t * 31) % SHAPE.vocabSize),
      );
      const window = new Array(windows).fill({inputIds, labels: inputIds});
      await model.trainOnBatch(window);
      const measured = (await peakOf(() => model.trainOnBatch(window))) - others;
      const estimate = estimateMemory(model, {
        batchSize: rows,
        sequenceLength: length,
        gradientAccumulationSteps: windows,
        optimizer,
      });
      const weights = [...model.namedParameters().values()].map(({byteLength}) => byteLength);
      expect(estimate.weights).toBe(weights.reduce((sum, bytes) => sum + bytes, 0));
      const trained = [...model.trainableParameters().values()].reduce((sum, {size}) => sum + size, 0);
      expect(estimate.optimizer).toBe(8 * trained);
      expect(Math.abs(estimate.total / measured - 1)).toBeLessThan(TOLERANCE);
      optimizer.dispose();
      model.dispose();
    },
  );
});

test('knows the size of weights that are not there yet', async () => {
  for (const type of ['nf4', 'int8'] as const) {
    for (const doubleQuant of type === 'nf4' ? [true, false] : [false]) {
      const [declared, made] = [false, true].map((allocate) => Llama.fromConfig(SHAPE, {allocate}));
      declareQuantized(declared, {type, doubleQuant});
      await made.quantize({type, doubleQuant});
      const [planned, real] = [declared, made].map(
        (model) => estimateMemory(model, {batchSize: 1, sequenceLength: 8}).weights,
      );
      expect(Math.abs(planned / real - 1)).toBeLessThan(0.01);
      made.dispose();
      declared.dispose();
    }
  }
});

test('needs no weights: Llama 3.2 1B on a machine that could not hold it', () => {
  const {numBytes} = tf.memory();
  const model = Llama.fromConfig('llama-3.2-1b', {dtype: 'bfloat16', allocate: false});
  model.applyLoRA({rank: 8});
  const estimate = estimateMemory(model, {batchSize: 4, sequenceLength: 2048});
  expect(tf.memory().numBytes).toBe(numBytes);
  expect(estimate.weights / 2 ** 30).toBeCloseTo(
    (1_235_814_400 * 2 + 5_636_096 * 4 + 2 * 33 * 2048) / 2 ** 30,
    2,
  );
  expect(estimate.optimizer).toBe(8 * 5_636_096);
  expect(estimate.gradients).toBe(4 * 5_636_096);
  const parts = Object.entries(estimate).filter(([name]) => name !== 'total');
  expect(estimate.total).toBe(parts.reduce((sum, [, bytes]) => sum + bytes, 0));
  const shorter = estimateMemory(model, {batchSize: 4, sequenceLength: 512});
  expect(shorter.activations).toBeLessThan(estimate.activations / 4); // attention's scores grow faster
});

describe('memoryBudget', () => {
  const EXAMPLES = Array.from({length: 8}, (_, i) => ({
    inputIds: Array.from({length: 100 + i}, (_, t) => (t * 7 + i) % 128),
  }));
  let model: Llama;
  beforeEach(() => {
    model = Llama.fromConfig(SHAPE, {seed: 0}).applyLoRA({rank: 8});
  });
  afterEach(() => model.dispose());
  const train = (args: FitArgs) =>
    model.fitDataset(EXAMPLES, {batchSize: 4, verbose: 0, maxSteps: 1, ...args});
  const need = (args: object) => estimateMemory(model, {batchSize: 4, sequenceLength: 112, ...args}).total;

  test('lets a run pass that fits', async () => {
    expect((await train({memoryBudget: need({})})).steps).toHaveLength(1);
  });

  test('names what would make it fit, in order', async () => {
    model.gradientCheckpointing = false;
    const adviceFor = async (memoryBudget: number) => {
      const error = await train({memoryBudget}).catch((thrown) => thrown);
      expect(error).toMatchObject({code: 'INSUFFICIENT_MEMORY'});
      return error.message as string;
    };
    expect(await adviceFor(need({}) - 1)).toMatch(
      /^fitDataset memory: expected a peak of at most [\d.]+ MiB, got an estimate of [\d.]+ MiB \(weights .*, optimizer .*\) for 4 × 112 tokens\. Change model\.gradientCheckpointing = true \([\d.]+ MiB\)\.$/,
    );
    const one = need({gradientCheckpointing: true, batchSize: 1, gradientAccumulationSteps: 4});
    expect(await adviceFor(one)).toMatch(
      /, then batchSize 1 with gradientAccumulationSteps 4 \([\d.]+ MiB\)\.$/,
    );
    const short = need({
      gradientCheckpointing: true,
      batchSize: 1,
      gradientAccumulationSteps: 4,
      sequenceLength: 56,
    });
    expect(await adviceFor(short)).toMatch(/, then examples of at most 56 tokens \([\d.]+ MiB\)\.$/);
    expect(await adviceFor(1000)).toMatch(/at most 1000 B.*quantization .* Else take a smaller model\.$/);
  });

  test('refuses a model it cannot know', async () => {
    const other = new BigramModel();
    const trainer = new Trainer(other);
    await expect(trainer.fit([{inputIds: [1, 2]}], {memoryBudget: 1e9, verbose: 0})).rejects.toMatchObject({
      code: 'UNSUPPORTED',
    });
    trainer.dispose();
    other.table.dispose();
  });
});
