import * as tf from '@tensorflow/tfjs';
import type {WebGPUBackend} from '../../../layers/kernels/webgpu/device/webgpuBackend.ts';
import {stackMemory as memoryOnWebGPU} from '../../../layers/kernels/webgpu/stack/stackMemory.ts';
import {setBackendTraits} from '../../../layers/ops/backendTraits.ts';
import {declareQuantized} from '../../../models/quantization.ts';
import {AdamW, estimateMemory, type FitArgs, Llama, Trainer, useBackend} from '../../../src/index.ts';
import {longestRows} from '../../../src/training/run/estimateMemory.ts';
import {stackMemory} from '../../../src/training/run/stackMemory.ts';
import {BigramModel} from './bigramModel.ts';

/** Largest relative error of an estimate against the measured peak. */
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

/** Runs a function, and returns the peak of the bytes in tensors. */
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

test('knows the size of weights that are not allocated yet', async () => {
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

test('knows the longest rows that fit', () => {
  const model = Llama.fromConfig('llama-3.2-1b', {dtype: 'bfloat16', allocate: false}).applyLoRA({rank: 8});
  const budget = 8 * 2 ** 30;
  const tokens = longestRows(model, {batchSize: 2}, budget);
  const total = (sequenceLength: number) => estimateMemory(model, {batchSize: 2, sequenceLength}).total;
  expect(total(tokens)).toBeLessThanOrEqual(budget);
  expect(total(tokens + 8)).toBeGreaterThan(budget);
  expect(longestRows(model, {batchSize: 2}, 2 ** 30)).toBe(0);
  expect(longestRows(model, {batchSize: 1}, 2 ** 50)).toBe(model.config.maxPositionEmbeddings);
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

  test('accepts a run that fits', async () => {
    expect((await train({memoryBudget: need({})})).steps).toHaveLength(1);
  });

  test('names the changes that would make it fit, in order', async () => {
    model.gradientCheckpointing = false;
    const adviceFor = async (memoryBudget: number) => {
      const error = await train({memoryBudget}).catch((thrown) => thrown);
      expect(error).toMatchObject({code: 'INSUFFICIENT_MEMORY'});
      return error.message as string;
    };
    expect(await adviceFor(need({}) - 1)).toMatch(
      /^training memory: expected a peak of at most [\d.]+ MiB, got an estimate of [\d.]+ MiB \(weights .*, optimizer .*\) for 4 × 112 tokens\. Change model\.gradientCheckpointing = true \([\d.]+ MiB\)\.$/,
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
    expect(await adviceFor(1000)).toMatch(/at most 1000 B.*quantization .* Otherwise use a smaller model\.$/);
  });

  test('refuses an unknown kind of model', async () => {
    const other = new BigramModel();
    const trainer = new Trainer(other);
    await expect(trainer.fit([{inputIds: [1, 2]}], {memoryBudget: 1e9, verbose: 0})).rejects.toMatchObject({
      code: 'UNSUPPORTED',
    });
    trainer.dispose();
    other.table.dispose();
  });
});

describe('estimateMemory where one op computes all blocks', () => {
  beforeAll(async () => {
    await useBackend('cpu');
    tf.registerKernel({kernelName: 'DecoderStack', backendName: 'cpu', kernelFunc: () => []});
  });
  afterAll(async () => {
    tf.unregisterKernel('DecoderStack', 'cpu');
    await useBackend('wasm');
  });

  const MIB = 2 ** 20;
  const modelOf = (preset: 'llama-3.2-1b' | 'llama-3.2-3b' | 'llama-3.1-8b', isQuantized: boolean) => {
    const model = Llama.fromConfig(preset, {dtype: 'bfloat16', allocate: false});
    if (isQuantized) declareQuantized(model, {type: 'nf4', doubleQuant: true});
    model.applyLoRA({rank: 8, targetModules: 'all-linear', seed: 0});
    return model;
  };

  // GiB in use of TensorFlow's pool on an H200, rank 8 on all linear layers.
  test.each([
    ['llama-3.2-1b', 4, 2048, false, true, 3.9],
    ['llama-3.2-1b', 4, 2048, true, true, 2.39],
    ['llama-3.2-1b', 4, 2048, false, 'offload', 3.57],
    ['llama-3.2-1b', 4, 2048, true, 'offload', 2.04],
    ['llama-3.2-1b', 4, 2048, false, false, 9.61],
    ['llama-3.2-1b', 4, 2048, true, false, 8.18],
    ['llama-3.2-1b', 1, 32768, true, true, 5],
    ['llama-3.2-1b', 1, 32768, true, 'offload', 3.25],
    ['llama-3.2-3b', 2, 2048, true, true, 3.66],
    ['llama-3.2-3b', 2, 2048, true, 'offload', 3.15],
  ] as const)('is near what a card used: %s, %d × %d, nf4 %s, checkpointing %s', (...row) => {
    const [preset, batchSize, sequenceLength, isQuantized, gradientCheckpointing, measured] = row;
    const model = modelOf(preset, isQuantized);
    const {total} = estimateMemory(model, {batchSize, sequenceLength, gradientCheckpointing});
    expect(Math.abs(total / 2 ** 30 / measured - 1)).toBeLessThan(0.1);
  });

  // MiB that the engine asks for in backward, counted without a card.
  test.each([
    ['llama-3.2-1b', 4, 2048, [436.9, 550.6, 614.6]],
    ['llama-3.2-1b', 1, 32768, [730.1, 1185.1, 1441.1]],
    ['llama-3.2-1b', 1, 512, [162.8, 169.9, 173.9]],
    ['llama-3.2-3b', 2, 2048, [468.1, 556.8, 604.8]],
    ['llama-3.1-8b', 2, 2048, [653.8, 766.7, 830.7]],
  ] as const)('knows the buffers of the engine: %s, %d × %d', (preset, batch, length, counted) => {
    const model = modelOf(preset, true);
    const ranks = new Map(['q', 'k', 'v', 'o', 'gate', 'up', 'down'].map((name) => [`${name}_proj`, 8]));
    for (const [i, checkpointing] of ([false, true, 'offload'] as const).entries()) {
      const {backward} = stackMemory(model, ranks, batch, length, checkpointing, false);
      const outside = (3 * 4 * batch * length * model.config.hiddenSize) / MIB;
      expect(Math.abs(backward / MIB - outside - counted[i]) / counted[i]).toBeLessThan(0.02);
    }
  });

  /** Estimates the bytes of a step on a card with webgpu in float16. */
  function onWebGPU(model: Llama, args: Parameters<typeof estimateMemory>[1]): number {
    const device = {limits: {maxStorageBufferBindingSize: 2 ** 31 - 4}};
    setBackendTraits(tf.backend(), {
      stackMemory: (step) => memoryOnWebGPU({device} as WebGPUBackend, step),
    });
    const {total} = estimateMemory(model, args);
    setBackendTraits(tf.backend(), {stackMemory: undefined});
    return total;
  }

  const planned = new Map<string, Llama>();
  // GiB that the webgpu backend held in float16, counted by `bench/gpu --device none`.
  test.each([
    ['llama-3.2-1b', 4, 2048, false, true, 3.96],
    ['llama-3.2-1b', 4, 2048, true, true, 2.62],
    ['llama-3.2-1b', 4, 2048, true, 'offload', 1.51],
    ['llama-3.2-1b', 4, 2048, false, false, 9.22],
    ['llama-3.2-1b', 1, 32768, true, true, 5.96],
    ['llama-3.2-1b', 1, 32768, true, 'offload', 2.31],
    ['llama-3.2-1b', 8, 512, true, false, 4.55],
    ['llama-3.2-1b', 1, 512, true, false, 1.71],
    ['llama-3.2-3b', 2, 4096, true, true, 4.46],
    ['llama-3.2-3b', 1, 8192, false, true, 9.31],
    ['llama-3.1-8b', 2, 2048, true, true, 7.42],
    ['llama-3.1-8b', 2, 2048, true, 'offload', 6.42],
  ] as const)('is near what webgpu held: %s, %d × %d, nf4 %s, checkpointing %s', (...row) => {
    const [preset, batchSize, sequenceLength, isQuantized, gradientCheckpointing, held] = row;
    const key = `${preset} ${isQuantized}`;
    const model = planned.get(key) ?? modelOf(preset, isQuantized);
    planned.set(key, model);
    const total = onWebGPU(model, {batchSize, sequenceLength, gradientCheckpointing});
    expect(Math.abs(total / 2 ** 30 / held - 1)).toBeLessThan(0.1);
  });

  test('is near what webgpu held with keys and values eight times as wide as hidden states', () => {
    const shape = {
      ...{...SHAPE, vocabSize: 32000, hiddenSize: 512, intermediateSize: 768, numHiddenLayers: 4},
      ...{numAttentionHeads: 32, numKeyValueHeads: 32, headDim: 128, maxPositionEmbeddings: 1024},
    };
    const model = Llama.fromConfig(shape, {dtype: 'float16', allocate: false});
    model.applyLoRA({rank: 8, targetModules: 'all-linear'});
    const total = onWebGPU(model, {batchSize: 5, sequenceLength: 900, gradientCheckpointing: true});
    expect(Math.abs(total / MIB / 776 - 1)).toBeLessThan(0.1);
  });

  test('counts composed ops when the card leaves the blocks to them', () => {
    const model = modelOf('llama-3.2-1b', false);
    const args = {batchSize: 1, sequenceLength: 512};
    const {total} = estimateMemory(model, args);
    for (const other of [{dropout: 0.1}, {useDoRA: true}]) {
      const composed = Llama.fromConfig('llama-3.2-1b', {dtype: 'bfloat16', allocate: false});
      composed.applyLoRA({rank: 8, targetModules: 'all-linear', ...other});
      expect(estimateMemory(composed, args).total).toBeGreaterThan(1.3 * total);
    }
    const ofWidth = (hiddenSize: number) => {
      const shape = {
        ...SHAPE,
        hiddenSize,
        intermediateSize: 2048,
        numAttentionHeads: 12,
        numKeyValueHeads: 4,
      };
      const narrow = Llama.fromConfig(
        {...shape, headDim: 64, maxPositionEmbeddings: 512},
        {dtype: 'bfloat16', allocate: false},
      );
      narrow.applyLoRA({rank: 8, targetModules: 'all-linear'});
      return estimateMemory(narrow, {batchSize: 8, sequenceLength: 512}).total;
    };
    expect(ofWidth(760)).toBeGreaterThan(1.3 * ofWidth(768)); // kernels need sides that are multiples of 16
  });
});

test('counts the weights of replicated layers once', () => {
  const model = Llama.fromConfig(SHAPE, {allocate: false});
  const weightsOf = () => estimateMemory(model, {batchSize: 1, sequenceLength: 8}).weights;
  const before = weightsOf();
  const layerReplication: [number, number][] = [
    [0, 2],
    [0, 2],
  ];
  model.applyLoRA({rank: 2, layerReplication});
  const adapter = [...model.trainableShapes().values()].map((shape) => 4 * tf.util.sizeFromShape(shape));
  expect(weightsOf()).toBe(before + adapter.reduce((sum, bytes) => sum + bytes));
});
