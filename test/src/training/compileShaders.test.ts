import * as tf from '@tensorflow/tfjs';
import type {WebGPUBackend} from '../../../layers/kernels/webgpu/device/webgpuBackend.ts';
import {AdamW, AdamW8bit, type CompileArgs, Llama} from '../../../src/index.ts';
import {describeWebGPU} from '../../layers/kernels/webgpu/webgpuOnly.ts';

const CONFIG = {
  vocabSize: 32,
  hiddenSize: 16,
  intermediateSize: 24,
  numHiddenLayers: 2,
  numAttentionHeads: 4,
  numKeyValueHeads: 2,
  maxPositionEmbeddings: 32,
};
const EXAMPLES = [3, 5, 7, 11].map((stride) => ({
  inputIds: Array.from({length: 9}, (_, t) => (1 + t * stride) % 32),
}));

type Compiled = [compiled: number, total: number];

/**
 * Runs two steps of a small model. Returns its weights, the progress of shaders, and the shaders compiled after that.
 */
async function trained(args: CompileArgs, isQuantized = false) {
  const model = Llama.fromConfig(CONFIG, {seed: 3});
  if (isQuantized) await model.quantize({type: 'nf4', doubleQuant: true});
  model.applyLoRA({rank: 4, dropout: 0.1, seed: 5});
  model.compile(args);
  const reports: Compiled[] = [];
  const late: string[] = [];
  const {device} = tf.backend() as unknown as WebGPUBackend;
  const {createComputePipeline} = GPUDevice.prototype;
  device.createComputePipeline = (descriptor) => {
    late.push(descriptor.label ?? '');
    return createComputePipeline.call(device, descriptor);
  };
  try {
    const {steps} = await model.fitDataset(EXAMPLES, {
      batchSize: 2,
      verbose: 0,
      shuffle: false,
      callbacks: {onCompile: (compiled, total) => void reports.push([compiled, total])},
    });
    const weights = await Promise.all(
      [...model.trainableParameters().values()].map(async (variable) => [...(await variable.data())]),
    );
    return {model, reports, late, steps, weights};
  } finally {
    Reflect.deleteProperty(device, 'createComputePipeline');
  }
}

describeWebGPU('training with shaders compiled first', () => {
  test.each([
    ['AdamW', () => new AdamW({learningRate: 1e-2}), false],
    ['8-bit AdamW and base', () => new AdamW8bit({learningRate: 1e-2, min8bitSize: 0}), true],
  ])('%s: equals training without', async (_, makeOptimizer, isQuantized) => {
    const settings = () => ({optimizer: makeOptimizer(), maxGradNorm: 1e-3});
    const ahead = await trained(settings(), isQuantized);
    const total = ahead.reports[0][1];
    expect(total).toBeGreaterThan(isQuantized ? 3 : 20); // with those that both need
    expect(ahead.reports).toEqual(Array.from({length: total + 1}, (_, compiled) => [compiled, total]));
    expect(ahead.late).toEqual([]);
    const plain = await trained({...settings(), compileShaders: false}, isQuantized);
    expect(plain.reports).toEqual([]);
    expect(ahead.steps.map(({loss}) => loss)).toEqual(plain.steps.map(({loss}) => loss));
    expect(ahead.weights).toEqual(plain.weights);
    for (const {model} of [ahead, plain]) {
      model.optimizer.dispose();
      model.dispose();
    }
  });

  test('leaves no tensor behind', async () => {
    const run = async () => {
      const {model} = await trained({optimizer: 'adamw'});
      model.dispose();
    };
    await run();
    const {numTensors, numDataBuffers} = tf.memory();
    await run();
    expect(tf.memory()).toMatchObject({numTensors, numDataBuffers});
  });
});
