import * as tf from '@tensorflow/tfjs';
import type {LoRADense} from '../../../layers/loraDense.ts';
import {decoderStack, decoderStackOp} from '../../../layers/ops/decoderStack.ts';
import {hasKernel} from '../../../layers/ops/dispatch.ts';
import {PROJECTIONS, type PreparedStack, type StackBlock} from '../../../layers/ops/stackBlock.ts';
import {generateIds} from '../../../models/generation/generate.ts';
import {DecoderBlock} from '../../../models/llama/decoderBlock.ts';
import type {LlamaForCausalLM} from '../../../models/llama/llama.ts';
import {plainStack} from '../../../models/llama/plainStack.ts';
import type {StorageDtype} from '../../../quant/float16.ts';
import {describeEachBackend, expectNoLeak} from '../../describeEachBackend.ts';
import {expectClose} from '../../expectClose.ts';
import {stirAdapter, tinyIds, tinyLlama} from '../tinyLlama.ts';

const mask = [
  [1, 1, 2, 2, 2],
  [1, 1, 1, 0, 0],
];

async function adapted(dtype: StorageDtype, quantization?: 'nf4' | 'int8'): Promise<LlamaForCausalLM> {
  const model = tinyLlama({hiddenSize: 64, intermediateSize: 96}, {dtype});
  if (quantization) await model.quantize({type: quantization, doubleQuant: quantization === 'nf4'});
  model.applyLoRA({
    rank: 2,
    alpha: 3,
    targetModules: ['q_proj', 'v_proj', 'o_proj', 'up_proj', 'down_proj'],
    seed: 1,
  });
  stirAdapter(model);
  return model;
}

const stackOf = (model: LlamaForCausalLM, training = true) => plainStack(model.blocks, training);

/** Computes the model up to its last norm from the description of its layers' weights. */
function forwardByStack(model: LlamaForCausalLM, checkpointing: boolean): tf.Tensor {
  return tf.tidy(() => {
    const {numAttentionHeads: heads, numKeyValueHeads: keyValueHeads, rmsNormEps: epsilon} = model.config;
    const hidden = model.embed_tokens.apply(tf.tensor2d(tinyIds, undefined, 'int32')) as tf.Tensor3D;
    const {cos, sin} = model.rotary.tables(tinyIds[0].length);
    const segments = tf.tensor2d(mask, undefined, 'int32');
    return model.norm.apply(
      decoderStack(hidden, stackOf(model) as StackBlock[], {
        ...{heads, keyValueHeads, epsilon, cos, sin, segments, checkpointing, isInputTrained: false},
      }),
    ) as tf.Tensor;
  });
}

function forwardByLayers(model: LlamaForCausalLM): tf.Tensor {
  return tf.tidy(() =>
    model.forward(tf.tensor2d(tinyIds, undefined, 'int32'), {
      attentionMask: tf.tensor2d(mask, undefined, 'int32'),
      training: true,
    }),
  );
}

describeEachBackend('a plain stack', () => {
  test('hands over its states, unless somebody can have kept them', () => {
    const model = tinyLlama();
    expect(model.handsOverStates).toBe(true);
    const {call} = model.norm;
    model.norm.call = (...given) => call.apply(model.norm, given);
    expect(model.handsOverStates).toBe(false);
    model.norm.call = call;
    model.forward = (...given) => Object.getPrototypeOf(model).forward.apply(model, given);
    expect(model.handsOverStates).toBe(false);
    model.dispose();
  });

  test.each([
    ['float32', undefined],
    ['bfloat16', undefined],
    ['float32', 'nf4'],
    ['float32', 'int8'],
  ] as const)('gives what the layers of a %s model give, quantized to %s', async (dtype, quantization) => {
    const model = await adapted(dtype, quantization);
    const variables = [...model.trainableParameters().values()];
    expect(variables).toHaveLength(2 * 5 * model.blocks.length);
    const weights = tf.tidy(() => tf.randomNormal(forwardByLayers(model).shape, 0, 1, 'float32', 5));
    const gradientsOf = (forward: () => tf.Tensor) =>
      tf.variableGrads(() => tf.sum(tf.mul(forward(), weights)) as tf.Scalar, variables);
    const expected = gradientsOf(() => forwardByLayers(model));
    for (const checkpointing of [false, true]) {
      const got = gradientsOf(() => forwardByStack(model, checkpointing));
      expectClose(got.value, expected.value, {relative: 1e-4});
      for (const {name} of variables) expectClose(got.grads[name], expected.grads[name], {relative: 1e-4});
      tf.dispose([got.value, got.grads]);
    }
    expectNoLeak(() => forwardByStack(model, true));
    tf.dispose([weights, expected.value, expected.grads]);
    model.dispose();
  });
});

describe('plainStack', () => {
  let model: LlamaForCausalLM;
  beforeEach(async () => {
    await tf.setBackend('cpu');
    model = await adapted('bfloat16');
  });
  afterEach(() => model.dispose());

  const first = () =>
    model.blocks[0].self_attn.q_proj as Extract<
      (typeof model.blocks)[0]['self_attn']['q_proj'],
      {adapters: unknown}
    >;

  test('describes every block', () => {
    const [block, ...others] = stackOf(model) as StackBlock[];
    expect(others).toHaveLength(model.blocks.length - 1);
    expect(PROJECTIONS.map((name) => block[name].lora?.scaling)).toEqual([
      1.5,
      undefined,
      1.5,
      1.5,
      undefined,
      1.5,
      1.5,
    ]);
    expect(block.q_proj.lora?.a).toBe(first().loraA.read());
    expect(block.k_proj.weight).toMatchObject({dtype: 'bfloat16', rows: 32, cols: 64});
  });

  test('leaves the adapter out when it is inactive or merged', () => {
    first().activeAdapters = [];
    expect(stackOf(model)?.[0].q_proj.lora).toBeUndefined();
    first().activeAdapters = ['default'];
    model.mergeLoRA();
    expect(stackOf(model)?.[0].q_proj.lora).toBeUndefined();
    model.unmergeLoRA();
    expect(stackOf(model)?.[0].q_proj.lora).toBeDefined();
  });

  test('describes only layers of the library', () => {
    for (const layer of [
      model.blocks[1],
      model.blocks[1].mlp,
      model.blocks[0].input_layernorm,
      first(),
      first().base,
    ]) {
      expect(stackOf(model)).toBeDefined();
      class Special extends (layer.constructor as new () => tf.layers.Layer) {}
      const before = Object.getPrototypeOf(layer);
      Object.setPrototypeOf(layer, Special.prototype);
      expect(stackOf(model)).toBeUndefined();
      Object.setPrototypeOf(layer, before);
      layer.setCallHook(() => {});
      expect(stackOf(model)).toBeUndefined();
      layer.clearCallHook();
      Object.assign(layer, {call: () => {}});
      expect(stackOf(model)).toBeUndefined();
      delete (layer as {call?: unknown}).call;
    }
    expect(stackOf(model)).toBeDefined();
  });

  test('leaves to the layers what it does not compute', () => {
    first().addAdapter('second', {rank: 1});
    expect(stackOf(model)).toBeUndefined();
    first().removeAdapter('second');
    expect(stackOf(model)).toBeDefined();

    first().removeAdapter('default');
    first().addAdapter('default', {rank: 1, dropout: 0.5});
    expect(stackOf(model, true)).toBeUndefined();
    expect(stackOf(model, false)).toBeDefined();

    first().removeAdapter('default');
    first().addAdapter('default', {rank: 1, useDoRA: true});
    expect(stackOf(model)).toBeUndefined();
  });

  test('leaves norms that would get a gradient to the layers', () => {
    model.blocks[0].input_layernorm.trainable = true;
    expect(stackOf(model)).toBeDefined();
    let recorded: unknown = 'not called';
    tf.dispose(
      tf.variableGrads(() => {
        recorded = stackOf(model);
        return tf.sum(first().loraA.read()) as tf.Scalar;
      }) as unknown as tf.TensorContainer,
    );
    expect(recorded).toBeUndefined();
  });

  test('leaves biases and weights that train to the layers', () => {
    const biased = tinyLlama({attentionBias: true, hiddenSize: 64}, {dtype: 'bfloat16'});
    const trained = tinyLlama({hiddenSize: 64});
    expect([stackOf(biased), stackOf(trained)]).toEqual([undefined, undefined]);
    biased.dispose();
    trained.dispose();
  });
});

/** A kernel of the backend `cpu` that records its calls. It returns zeros, and numbered gradients. */
describe('the kernel of a stack', () => {
  const asked: {
    name: string;
    inputs: Record<string, tf.TensorInfo>;
    attrs: {stack?: unknown; isRecorded?: unknown; isInputTrained?: unknown};
  }[] = [];
  const info = (shape: number[], value = 0) => {
    const size = tf.util.sizeFromShape(shape);
    const backend = tf.backend() as unknown as {
      makeTensorInfo(shape: number[], dtype: string, values: Float32Array): tf.TensorInfo;
    };
    return backend.makeTensorInfo(shape, 'float32', new Float32Array(size).fill(value));
  };

  beforeEach(async () => {
    await tf.setBackend('cpu');
    asked.length = 0;
    const kernel = (
      name: string,
      answer: (inputs: Record<string, tf.TensorInfo>, attrs: (typeof asked)[0]['attrs']) => tf.TensorInfo[],
    ) =>
      tf.registerKernel({
        kernelName: name,
        backendName: 'cpu',
        kernelFunc: (args) => {
          const {inputs, attrs} = args as unknown as (typeof asked)[0];
          asked.push({name, inputs, attrs});
          return answer(inputs, attrs);
        },
      });
    kernel('DecoderStack', ({x}, {isRecorded}) => [info(x.shape, 1), ...(isRecorded ? [info([3], 7)] : [])]);
    kernel('DecoderStackGrad', ({dy}, {isInputTrained, stack}) => {
      const adapters = Object.entries((stack as PreparedStack).tensors).filter(([name]) =>
        /\.[ab]$/.test(name),
      );
      const gradients = adapters.map(([, {shape}], i) => info(shape, i + 1));
      return isInputTrained ? [info(dy.shape, -1), ...gradients] : gradients;
    });
  });
  afterEach(() => {
    for (const name of ['DecoderStack', 'DecoderStackGrad']) tf.unregisterKernel(name, 'cpu');
    expect(hasKernel(decoderStackOp)).toBe(false);
  });

  const wide = {hiddenSize: 128, numAttentionHeads: 2, numKeyValueHeads: 1, intermediateSize: 64};
  const loss = (model: LlamaForCausalLM, more = {}) =>
    model.lossSum({inputIds: tinyIds, labels: tinyIds, attentionMask: mask, ...more}, {training: true});

  test('makes one call forward and one backward, whose gradients go to the adapters', () => {
    const model = tinyLlama(wide, {dtype: 'bfloat16'});
    model.applyLoRA({rank: 2, targetModules: ['q_proj', 'down_proj'], seed: 1});
    const variables = [...model.trainableParameters().values()];
    const {value, grads} = tf.variableGrads(() => loss(model), variables);
    expect(asked.map(({name}) => name)).toEqual(['DecoderStack', 'DecoderStackGrad']);
    const [forward, backward] = asked;
    const attributes = {
      heads: 2,
      keyValueHeads: 1,
      headDim: 64,
      intermediateSize: 64,
      epsilon: 1e-6,
      checkpointing: true,
    };
    expect(forward.attrs).toMatchObject({isRecorded: true, stack: {attributes}});
    expect(backward.attrs).toMatchObject({isInputTrained: false, stack: {attributes}});
    const names = ['input_layernorm', 'post_attention_layernorm'].concat(
      PROJECTIONS.flatMap((name) =>
        name === 'q_proj' || name === 'down_proj'
          ? ['weight', 'a', 'b'].map((each) => `${name}.${each}`)
          : [`${name}.weight`],
      ),
    );
    const all = [0, 1].flatMap((i) => names.map((name) => `${i}.${name}`));
    expect(Object.keys(forward.inputs)).toEqual(['x', 'cos', 'sin', 'segments']);
    expect(Object.keys(backward.inputs)).toEqual(['dy', 'cos', 'sin', 'segments', 'saved0']);
    for (const {attrs} of [forward, backward]) {
      expect(Object.keys((attrs.stack as PreparedStack).tensors)).toEqual(all);
    }
    expect(backward.inputs.saved0.shape).toEqual([3]);
    const inOrder = model.blocks.flatMap(({self_attn, mlp}) =>
      [self_attn.q_proj, mlp.down_proj].flatMap((layer) =>
        ['loraA', 'loraB'].map((key) => (layer as LoRADense)[key as 'loraA'].read().name),
      ),
    );
    expect(inOrder.map((name) => grads[name].dataSync()[0])).toEqual(inOrder.map((_, i) => i + 1));
    tf.dispose([value, grads]);
    model.dispose();
  });

  test('gives the embedding a gradient when it trains', () => {
    const model = tinyLlama(wide, {dtype: 'bfloat16'});
    model.applyLoRA({rank: 2, targetModules: ['q_proj'], seed: 1});
    Object.defineProperty(model.embed_tokens, 'trainableWeights', {get: () => [1]});
    const {value, grads} = tf.variableGrads(() => loss(model), [...model.trainableParameters().values()]);
    expect(asked.at(-1)?.attrs).toMatchObject({isInputTrained: true});
    tf.dispose([value, grads]);
    model.dispose();
  });

  test('saves nothing without a gradient, and leaves generation to the layers', async () => {
    const model = tinyLlama(wide, {dtype: 'bfloat16'});
    model.lossSum({inputIds: tinyIds, labels: tinyIds}, {}).dispose();
    const asStacks = asked.map(({name, attrs}) => ({
      name,
      ...attrs,
      ...(attrs.stack as PreparedStack).attributes,
    }));
    expect(asStacks.map(({name, isRecorded, checkpointing}) => [name, isRecorded, checkpointing])).toEqual([
      ['DecoderStack', false, false],
    ]);
    expect(Object.keys(asked[0].inputs)).not.toContain('segments');
    asked.length = 0;
    await generateIds(model, [1, 2], {maxNewTokens: 2});
    expect(asked).toEqual([]);
    model.dispose();
  });

  test.each([
    ['heads of another size', {hiddenSize: 64}, 'bfloat16'],
    ['float32 weights', {}, 'float32'],
    ['rows that begin anywhere', {intermediateSize: 72}, 'bfloat16'],
  ] as const)('is not asked for %s', async (_, extra, dtype) => {
    const model = tinyLlama({...wide, ...extra}, {dtype});
    const layers = jest.spyOn(DecoderBlock.prototype, 'call');
    model.lossSum({inputIds: tinyIds, labels: tinyIds}, {}).dispose();
    expect(asked).toEqual([]);
    expect(layers).toHaveBeenCalledTimes(model.blocks.length); // they support more than the composed op
    layers.mockRestore();
    model.dispose();
  });
});
