import * as tf from '@tensorflow/tfjs';
import {
  settingsOf,
  type TensorFlowBackend,
} from '../../../../../layers/kernels/tensorflow/device/tensorflowBackend.ts';
import {registerCardKernels} from '../../../../../layers/kernels/tensorflow/registerCardKernels.ts';
import {PROJECTIONS} from '../../../../../layers/ops/stackBlock.ts';
import {generateIds} from '../../../../../models/generation/generate.ts';
import {LlamaForCausalLM} from '../../../../../models/llama/llama.ts';
import {useBackend} from '../../../../../src/training/backends/useBackend.ts';
import {tinyConfig, tinyIds} from '../../../../models/tinyLlama.ts';

/**
 * Runs the ops of a card in TensorFlow itself, on the CPU, with an engine that describes its arguments.
 * `.ci/compile-card-ops` compiles that engine and names it in `TFJS_LORA_DESCRIBING_ENGINE`. Without it, these tests
 * show as skipped.
 */
const path = process.env.TFJS_LORA_DESCRIBING_ENGINE;

(path ? describe : describe.skip)('the ops of a card hand over', () => {
  let engine: {described(): string};
  const backend = () => tf.backend() as TensorFlowBackend;

  beforeAll(async () => {
    await useBackend('tensorflow', {computeDtype: 'bfloat16', fusedOps: true});
    engine = require(path as string);
    settingsOf(backend()).hasCardOps = true;
    registerCardKernels(backend());
  });
  afterAll(() => {
    settingsOf(backend()).hasCardOps = false;
    registerCardKernels(backend());
  });

  const shape = {
    hiddenSize: 128,
    numAttentionHeads: 2,
    numKeyValueHeads: 1,
    intermediateSize: 64,
    vocabSize: 32,
  };
  const newModel = (extra = {}) =>
    LlamaForCausalLM.fromConfig(
      {...tinyConfig, ...shape, rmsNormEps: 0.25, ...extra},
      {dtype: 'bfloat16', seed: 1},
    ) as LlamaForCausalLM;
  const mask = [
    [1, 1, 2, 2, 2],
    [1, 1, 1, 0, 0],
  ];
  const lossOf = (model: LlamaForCausalLM) =>
    model.lossSum({inputIds: tinyIds, labels: tinyIds, attentionMask: mask}, {training: true});
  /** Prints numbers as C++ does. */
  const printed = (value: number) => `${Number(value.toPrecision(9))}`;
  const first = (tensor: tf.Tensor) => printed(tensor.dataSync()[0]);

  const projectionsOf = (model: LlamaForCausalLM) =>
    model.blocks.map(({self_attn, mlp}) => {
      const layers = {...self_attn, ...mlp} as unknown as Record<string, {weight: {read(): tf.Tensor}}>;
      return PROJECTIONS.map((name) => layers[name]);
    });

  test('passes 16-bit weights, adapters, tables and segments, forward and backward', () => {
    const model = newModel();
    model.applyLoRA({rank: 2, alpha: 3, targetModules: ['k_proj', 'down_proj'], seed: 1});
    const variables = [...model.trainableParameters().values()];
    for (const [i, {name}] of variables.entries()) {
      const variable = tf.engine().registeredVariables[name];
      variable.assign(tf.fill(variable.shape, i + 0.5));
    }
    const handles = backend().getNumOfTFTensors();
    engine.described();
    const {value, grads} = tf.variableGrads(() => lossOf(model), variables);
    const text = engine.described();
    const cos = [Math.cos(1), Math.sin(1)].map((x) => printed(Math.fround(x)));
    const head = `2 x 5 x 128, heads 2 / 1 of 64, 64, epsilon 0.25, tables ${cos.join(' ')}, segments 1122211100, checkpointed`;
    const sizes = [
      '[128, 128]',
      '[64, 128]',
      '[64, 128]',
      '[128, 128]',
      '[64, 128]',
      '[64, 128]',
      '[128, 64]',
    ];
    const blocks = projectionsOf(model).flatMap((layers, block) => [
      'norms 1 1',
      ...layers.map((layer, i) => {
        const base = ((layer as unknown as {base?: typeof layer}).base ?? layer).weight.read();
        const at = 4 * block + 2 * [1, 6].indexOf(i) + 0.5;
        const lora = i === 1 || i === 6 ? ` rank 2 scaling 1.5 a ${at} b ${at + 1}` : '';
        return `kind 0 ${sizes[i]} word ${base.dataSync()[0]}${lora}`;
      }),
    ]);
    const stack = [head, ...blocks].join('\n');
    const loss = `kind 0 [32, 128] word ${model.embed_tokens.weight.read().dataSync()[0]} loss of 8: 5 3 18 7 2 9 0 11 with gradient`;
    expect(text.trim().split('\n')).toEqual(
      `${stack}\nforward, saves\n${loss}\n${stack}\nbackward from 7`.split('\n'),
    );
    expect(value.dataSync()[0]).toBe(5);
    expect(variables.map(({name}) => grads[name].dataSync()[0])).toEqual(variables.map((_, i) => i + 1));
    expect(variables.map(({name}) => grads[name].shape)).toEqual(variables.map(({shape}) => shape));
    tf.dispose([value, grads]);
    const before = backend().getNumOfTFTensors(); // views of weights were made
    expect(before).toBeGreaterThan(handles);
    tf.dispose(tf.variableGrads(() => lossOf(model), variables) as unknown as tf.TensorContainer);
    expect(backend().getNumOfTFTensors()).toBe(before);
    model.dispose();
  });

  test('keeps inputs of blocks in host memory until backward is done', () => {
    const model = newModel();
    model.applyLoRA({rank: 2, targetModules: ['k_proj'], seed: 1});
    model.gradientCheckpointing = 'offload';
    const variables = [...model.trainableParameters().values()];
    const tensors = backend().getNumOfTFTensors();
    engine.described();
    tf.dispose(tf.variableGrads(() => lossOf(model), variables) as unknown as tf.TensorContainer);
    const lines = engine
      .described()
      .split('\n')
      .filter((line) => /checkpointed|host|ward|back/.test(line));
    const head = expect.stringMatching(/segments 1122211100, checkpointed on the host$/);
    const blocks = model.blocks.length;
    expect(lines).toEqual([
      `takes ${10 * blocks} bytes of the host`,
      head,
      'forward, saves',
      head,
      'backward from 7',
      'gives them back',
    ]);
    const before = backend().getNumOfTFTensors(); // views of weights were made
    expect(before).toBeGreaterThan(tensors);
    tf.dispose(tf.variableGrads(() => lossOf(model), variables) as unknown as tf.TensorContainer);
    expect(backend().getNumOfTFTensors()).toBe(before);
    model.dispose();
  });

  test.each([
    ['nf4', true, /^kind 3 \[64, 128\] word -?\d+ blocks of 64, 256 code \d+ nested \S+ map 1 offset \S+$/],
    ['fp4', false, /^kind 4 \[64, 128\] word -?\d+ blocks of 64, 0 absmax \S+$/],
    ['int8', false, /^kind 5 \[64, 128\] word -?\d+ scale \S+$/],
  ] as const)('weights in %s', async (type, doubleQuant, line) => {
    const model = newModel();
    await model.quantize(type === 'int8' ? {type} : {type, doubleQuant});
    engine.described();
    lossOf(model).dispose();
    const lines = engine.described().split('\n');
    expect(lines[3]).toMatch(line); // k_proj of the first block
    const weight = model.blocks[0].self_attn.k_proj as unknown as {
      weight: {matrix(): {tensors: Record<string, tf.Tensor>; offset: number}};
    };
    const {tensors, offset} = weight.weight.matrix();
    const words = [`word ${tensors.codes.dataSync()[0]}`];
    if (doubleQuant) {
      words.push(`code ${(tensors.absmaxCodes.dataSync() as Int32Array)[0] & 255}`);
      words.push(`nested ${first(tensors.nestedAbsmax)}`, `offset ${printed(Math.fround(offset))}`);
    } else words.push(type === 'int8' ? `scale ${first(tensors.scales)}` : `absmax ${first(tensors.absmax)}`);
    for (const word of words) expect(lines[3]).toContain(word);
    model.dispose();
  });

  test('passes one position and the caches in generation', async () => {
    const model = newModel();
    engine.described();
    await generateIds(model, [1, 2, 3], {maxNewTokens: 3, doSample: true, seed: 1, eosTokenId: []});
    const decoded = engine.described().match(/decode after \d+ of \d+/g) ?? [];
    expect(decoded).toEqual(['decode after 3 of 256', 'decode after 4 of 256']);
    model.dispose();
  });

  const generate = (model: LlamaForCausalLM, prompts: number[][], maxNewTokens: number) =>
    generateIds(model, prompts, {maxNewTokens, doSample: false, eosTokenId: []});
  const chainLines = (text: string) => text.split('\n').filter((line) => /^(run|ended|caches)/.test(line));

  test('runs a chain of passes, each started before the last is read', async () => {
    const model = newModel();
    await generate(model, [[1, 2, 3]], 6); // views of weights
    const handles = backend().getNumOfTFTensors();
    engine.described();
    const [ids] = await generate(model, [[1, 2, 3]], 6);
    const text = engine.described();
    const word = model.embed_tokens.weight.read().dataSync()[0];
    const matrix = `kind 0 [32, 128] word ${word}`;
    const values = text.match(/caches of 256 value (\S+),/)?.[1];
    const [second, third] = ids.slice(1);
    expect(chainLines(text)).toEqual([
      `caches of 256 value ${values}, norm 1, table ${matrix}, head ${matrix}`,
      `run after 4 at 0 given ${second}`,
      `run after 5 at 1 ${second + 1}`,
      `run after 6 at 2 ${second + 2}`,
      `run after 7 at 3 ${second + 3}`,
      'ended with 0 unread',
    ]);
    expect(ids.slice(2)).toEqual([1, 2, 3, 4].map((after) => second + after));
    expect(third).toBe(second + 1);
    expect(text).toContain(
      `tables ${printed(Math.fround(Math.cos(5)))} ${printed(Math.fround(Math.sin(5)))}`,
    );
    expect(backend().getNumOfTFTensors()).toBe(handles);
    model.dispose();
  });

  test('runs a chain of padded rows, which ends with a row or a refusal', async () => {
    const model = newModel();
    engine.described();
    await generate(model, [[1, 2, 3], [4]], 4);
    expect(chainLines(engine.described())[1]).toMatch(/^run after 4 at 2 0 given \d+ \d+$/);
    await generate(model, [[1, 2, 3], [4], [5, 6]], 5);
    expect(engine.described()).not.toMatch(/^run/m);
    model.dispose();
  });

  test('throws a refusal as an error', () => {
    const model = newModel({headDim: 128});
    expect(() => lossOf(model).dispose()).toThrow('no heads of 128 here');
    model.dispose();
  });
});
