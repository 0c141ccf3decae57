import * as tf from '@tensorflow/tfjs';
import {decodeStack} from '../../../layers/ops/decodeStack.ts';
import type {CachedBlock, DecodeStackOptions, StackBlock} from '../../../layers/ops/stackBlock.ts';
import {generateIds} from '../../../models/generation/generate.ts';
import type {LlamaForCausalLM} from '../../../models/llama/llama.ts';
import {plainStack} from '../../../models/llama/plainStack.ts';
import {describeEachBackend} from '../../describeEachBackend.ts';
import {expectClose} from '../../expectClose.ts';
import {stirAdapter, tinyLlama} from '../tinyLlama.ts';

const prompts = [
  [1, 5, 9, 13],
  [0, 0, 7, 2],
];
const mask = [
  [1, 1, 1, 1],
  [0, 0, 1, 1],
];
const next = [[3], [8]];

function adapted(headDim = 16): LlamaForCausalLM {
  const model = tinyLlama({hiddenSize: 64, headDim, intermediateSize: 96}, {dtype: 'bfloat16'});
  model.applyLoRA({rank: 2, targetModules: ['q_proj', 'o_proj', 'gate_proj', 'down_proj'], seed: 1});
  stirAdapter(model);
  return model;
}

const ids = (rows: number[][]) => tf.tensor2d(rows, undefined, 'int32');
const columns = (more: number[][]) => ids(mask.map((row, b) => [...row, ...more[b]]));

describeEachBackend('decodeStack', () => {
  test('computes for the next position, and its caches, what the layers compute', async () => {
    const model = adapted();
    const before = tf.memory().numTensors;
    const cache = model.newCache();
    const {numAttentionHeads: heads, numKeyValueHeads: keyValueHeads, rmsNormEps: epsilon} = model.config;
    const stack = plainStack(model.blocks, false) as StackBlock[];
    const positions = [[4], [2]];
    tf.dispose(tf.tidy(() => model.forward(ids(prompts), {attentionMask: ids(mask), cache})));
    const [got, after] = tf.tidy(() => {
      const x = model.embed_tokens.apply(ids(next)) as tf.Tensor3D;
      const options = {heads, keyValueHeads, epsilon, ...model.rotary.tablesAt(positions)};
      const segments = columns([[1], [1]]);
      const y = cache.attendAll((caches, past) =>
        decodeStack(x, stack, caches, past, {...options, segments}),
      );
      return [model.norm.apply(y) as tf.Tensor, cache.length];
    });
    expect(after).toBe(5);
    const own = model.newCache();
    tf.dispose(tf.tidy(() => model.forward(ids(prompts), {attentionMask: ids(mask), cache: own})));
    const expected = tf.tidy(() =>
      model.forward(ids(next), {attentionMask: columns([[1], [1]]), positionIds: positions, cache: own}),
    );
    expectClose(got, expected, {relative: 1e-5});
    tf.dispose([got, expected]);
    own.dispose();
    cache.dispose();
    expect(tf.memory().numTensors).toBe(before);
    model.dispose();
  });
});

describe('with a kernel for decoding', () => {
  const calls: {past: number; capacity: number}[] = [];
  beforeAll(async () => {
    await tf.setBackend('cpu');
    tf.registerKernel({
      kernelName: 'DecodeStack',
      backendName: 'cpu',
      kernelFunc: (args: unknown) => {
        const {inputs, attrs} = args as {inputs: tf.NamedTensorMap; attrs: {past: number; stack: object}};
        calls.push({past: attrs.past, capacity: inputs.keys0.shape[2] as number});
        expect(Object.keys((attrs.stack as {tensors: object}).tensors)).toContain('1.down_proj.b');
        return tf.mul(inputs.x, 0) as unknown as tf.TensorInfo; // the chosen token shows that nothing else ran
      },
    });
  });
  afterAll(() => tf.unregisterKernel('DecodeStack', 'cpu'));
  beforeEach(() => {
    calls.length = 0;
  });

  test('gets each position after the prompt from generation, for heads that it supports', async () => {
    const model = adapted(64);
    const before = tf.memory().numTensors;
    await generateIds(model, [1, 5, 9], {maxNewTokens: 4, eosTokenId: []});
    expect(calls).toEqual([
      {past: 3, capacity: 256},
      {past: 4, capacity: 256},
      {past: 5, capacity: 256},
    ]);
    expect(tf.memory().numTensors).toBe(before);
    model.dispose();
  });

  test.each([
    ['heads of another length', () => adapted(16), 1],
    ['more sequences than it supports', () => adapted(64), 9],
  ])('the layers compute %s', async (_, make, batch) => {
    const model = make();
    const rows = Array.from({length: batch}, (_, row) => [1, 5, 9 + row]);
    await generateIds(model, rows, {maxNewTokens: 3, eosTokenId: []});
    expect(calls).toEqual([]);
    model.dispose();
  });
});

test('leaves caches of the same shapes when composed', async () => {
  await tf.setBackend('cpu');
  const model = adapted();
  const stack = plainStack(model.blocks, false) as StackBlock[];
  const {numAttentionHeads: heads, numKeyValueHeads: keyValueHeads, rmsNormEps: epsilon} = model.config;
  tf.tidy(() => {
    const cache = (): CachedBlock => ({
      keys: tf.zeros([1, keyValueHeads, 8, 16]),
      values: tf.zeros([1, keyValueHeads, 8, 16]),
    });
    const options: DecodeStackOptions = {heads, keyValueHeads, epsilon, ...model.rotary.tables(1, 3)};
    const {y, caches} = decodeStack(tf.ones([1, 1, 64]), stack, stack.map(cache), 3, options);
    expect(y.shape).toEqual([1, 1, 64]);
    expect(caches.map(({keys}) => keys.shape)).toEqual(stack.map(() => [1, keyValueHeads, 8, 16]));
    expect(() => decodeStack(tf.ones([1, 2, 64]), stack, stack.map(cache), 3, options)).toThrow(
      'decodeStack x',
    );
  });
  model.dispose();
});
