import * as tf from '@tensorflow/tfjs';
import {installAbsentDevice} from '../../../../bench/gpu/absentDevice.ts';
import {attend, attendGrad} from '../../../../layers/kernels/webgpu/attention/attention.ts';
import {capabilitiesOf, type WebGPUBackend} from '../../../../layers/kernels/webgpu/device/webgpuBackend.ts';
import {AdamW, Llama, useBackend} from '../../../../src/index.ts';

declare const nullGPU: GPU; // test/environment.cjs

/** Shapes whose rows are stored in octets: at least 2048 of them, of sizes that are multiples of 32. */
const SHAPE = {
  ...{vocabSize: 512, hiddenSize: 256, intermediateSize: 512, numHiddenLayers: 2, headDim: 64},
  ...{numAttentionHeads: 4, numKeyValueHeads: 2, maxPositionEmbeddings: 2048, tieWordEmbeddings: true},
};

/**
 * Shaders with subgroup matrices run on no software driver. Here a device that computes nothing takes them, and Dawn's
 * null backend, which has every feature and compiles nothing further, validates their text.
 */
const isAsked = process.env.TFJS_LORA_TEST_BACKENDS?.split(',').includes('webgpu');
(isAsked ? describe : describe.skip)('shaders with subgroup matrices', () => {
  const codes = new Set<string>();
  let validate: (code: string) => Promise<string | undefined>;

  beforeAll(async () => {
    const adapter = (await nullGPU.requestAdapter()) as GPUAdapter;
    const requiredFeatures = ['shader-f16', 'subgroups', 'chromium-experimental-subgroup-matrix'];
    const {maxStorageBuffersPerShaderStage, maxComputeWorkgroupStorageSize} = adapter.limits;
    const device = await adapter.requestDevice({
      requiredFeatures: requiredFeatures as GPUFeatureName[],
      requiredLimits: {maxStorageBuffersPerShaderStage, maxComputeWorkgroupStorageSize},
    });
    validate = async (code) => {
      device.pushErrorScope('validation');
      device.createShaderModule({code});
      const error = await device.popErrorScope();
      return error?.message;
    };
    installAbsentDevice(false);
    await useBackend('webgpu', {computeDtype: 'float16'});
    const {device: absent} = tf.backend() as unknown as WebGPUBackend;
    const createShaderModule = absent.createShaderModule.bind(absent);
    absent.createShaderModule = (descriptor) => {
      if (descriptor.code.includes('subgroup_matrix')) codes.add(descriptor.code);
      return createShaderModule(descriptor);
    };
  });

  /** Expects the text of all shaders that were made since the last call to be valid. */
  async function expectValid(...names: string[]): Promise<void> {
    expect(codes.size).toBeGreaterThanOrEqual(names.length);
    for (const code of codes) expect(await validate(code)).toBeUndefined();
    codes.clear();
  }

  test.each([
    {quantization: undefined, rank: 8, checkpointing: true},
    {quantization: {type: 'nf4', doubleQuant: true} as const, rank: 20, checkpointing: false},
  ])(
    'of training steps are valid: $quantization, rank $rank',
    async ({quantization, rank, checkpointing}) => {
      const model = Llama.fromConfig(SHAPE, {dtype: 'float16', seed: 1});
      if (quantization) await model.quantize(quantization);
      model.applyLoRA({rank, seed: 0});
      model.gradientCheckpointing = checkpointing;
      model.compile({optimizer: new AdamW({learningRate: 1e-3})});
      const inputIds = [Array.from({length: 2048}, (_, t) => t % SHAPE.vocabSize)];
      await model.trainOnBatch({inputIds, labels: inputIds});
      await expectValid('MatrixProduct', 'MatrixProject', 'MatrixFactorGradient', 'MatrixAttention');
      model.optimizer.dispose();
      model.dispose();
    },
  );

  test.each([
    {dim: 16, window: 0, softCap: 0, isPacked: false},
    {dim: 64, window: 0, softCap: 0, isPacked: true},
    {dim: 80, window: 0, softCap: 30, isPacked: true},
    {dim: 128, window: 100, softCap: 0, isPacked: false},
    {dim: 96, window: 0, softCap: 30, isPacked: true},
  ])(
    'of attention are valid: $dim, $window, $softCap, $isPacked',
    async ({dim, window, softCap, isPacked}) => {
      const backend = tf.backend() as unknown as WebGPUBackend;
      const make = (heads: number) => tf.zeros([1, heads, 64, dim]);
      const [query, key, value, dy] = [make(4), make(2), make(2), make(4)];
      const segments = isPacked ? tf.zeros([1, 64], 'int32') : undefined;
      const call = {inputs: {query, key, value, segments}, attrs: {causal: true, scale: 1, window, softCap}};
      for (const keepsOrder of [false, true]) {
        capabilitiesOf(backend).keepsOrder = keepsOrder;
        const [y, logSums] = attend(backend, call);
        const gradients = attendGrad(backend, {...call, inputs: {...call.inputs, dy, y, extra0: logSums}});
        for (const {dataId} of [y, logSums, ...gradients]) backend.disposeData(dataId);
      }
      // Both devices have the same shader of the gradients of key and value.
      await expectValid(
        ...['MatrixAttention', 'MatrixAttentionGradQuery', 'MatrixAttentionGradKeyValue'],
        ...['MatrixAttention', 'MatrixAttentionGradQuery'],
      );
      tf.dispose([query, key, value, dy, ...(segments ? [segments] : [])]);
    },
  );
});
