import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {mergeScores} from '../../../models/gguf/mergeScores.ts';
import {preTokenizerName} from '../../../models/gguf/preTokenizerName.ts';
import type {LlamaForCausalLM} from '../../../models/llama/llama.ts';
import {modelClassOf} from '../../../models/modelRegistry.ts';
import {Tokenizer} from '../../../models/tokenizer.ts';
import {errorOf, tinyConfig} from '../tinyLlama.ts';

const tokenizer = () => Tokenizer.fromFolder(join(__dirname, '../fixtures/tokenizers/byteLevel'));

async function modelOf(modelType: string, extra: Record<string, unknown> = {}): Promise<LlamaForCausalLM> {
  const family = modelClassOf({model_type: modelType}, 'test') as unknown as typeof LlamaForCausalLM;
  const model = family.fromConfig({...tinyConfig, vocabSize: 412, ...extra}) as LlamaForCausalLM;
  model.tokenizer = await tokenizer();
  return model;
}

describe('saveGguf', () => {
  beforeAll(() => tf.setBackend('cpu'));

  it.each<[string, Record<string, unknown>, string]>([
    [
      'llama',
      {ropeScaling: {type: 'dynamic', factor: 2, originalMaxPositionEmbeddings: 16}},
      'rope_type: expected',
    ],
    [
      'qwen3',
      {attentionBias: true, headDim: 2},
      'weight model.layers.0.self_attn.q_proj.bias: expected only',
    ],
    ['qwen2', {headDim: 4}, 'head_dim: expected heads of 8 elements together'],
    ['smollm3', {noRopeLayers: [1, 0]}, 'no_rope_layers[1]: expected 1 in llama.cpp’s smollm3, got 0'],
    ['gemma2', {headDim: 2, queryPreAttnScalar: 4}, 'query_pre_attn_scalar: expected 2'],
    [
      'gemma2',
      {headDim: 2, queryPreAttnScalar: 2, attnLogitSoftcapping: null},
      'attn_logit_softcapping: expected a',
    ],
    [
      'gemma2',
      {headDim: 2, queryPreAttnScalar: 2, tieWordEmbeddings: false},
      'tie_word_embeddings: expected true',
    ],
    [
      'gemma3_text',
      {headDim: 2, queryPreAttnScalar: 2, layerTypes: ['full_attention', 'full_attention']},
      'sliding_window: expected a window in some layer',
    ],
  ])('refuses a %s with %j, which llama.cpp would compute otherwise', async (modelType, extra, message) => {
    const model = await modelOf(modelType, extra);
    const files = new Map<string, Blob>();
    const error = await errorOf(() => model.saveGguf(files));
    expect(error).toEqual({
      code: 'UNSUPPORTED',
      message: expect.stringContaining(message.replaceAll('’', "'")),
    });
    expect(files.size).toBe(0);
    model.dispose();
  });

  it('refuses a family without an architecture in llama.cpp, a missing tokenizer, and unknown types', async () => {
    const model = await modelOf('llama');
    const files = new Map<string, Blob>();
    const own = Object.create(model, {modelType: {value: 'mine'}}) as LlamaForCausalLM;
    expect((await errorOf(() => own.saveGguf(files))).message).toMatch(
      /^saveGguf model_type: expected one of llama, .*mistral, whose architecture llama.cpp has, got "mine"/,
    );
    expect((await errorOf(() => model.saveGguf(files, {type: 'q3_k_m' as 'f32'}))).message).toBe(
      'saveGguf type: expected one of f32, f16, bf16, q8_0, q4_0, q4_k_m, q5_k_m, q6_k, got "q3_k_m". ' +
        'Did you mean q4_k_m?',
    );
    model.tokenizer = undefined;
    expect((await errorOf(() => model.saveGguf(files))).message).toMatch(/^saveGguf tokenizer: expected/);
    model.dispose();
  });

  it('refuses float16 for weights that are too large for it', async () => {
    const model = await modelOf('llama');
    const weight = model.namedParameters().get('model.layers.1.mlp.up_proj.weight')!;
    weight.write(tf.fill(weight.logicalShape, 70000));
    expect(await errorOf(() => model.saveGguf(new Map(), {type: 'f16'}))).toEqual({
      code: 'NON_FINITE',
      message: expect.stringContaining(
        'weight model.layers.1.mlp.up_proj.weight: expected numbers that f16 has',
      ),
    });
    model.dispose();
  });

  it.each<[string, object, string]>([
    ['DoRA', {useDoRA: true}, 'use_dora: expected false'],
    [
      'biases',
      {bias: 'lora_only', targetModules: ['q_proj']},
      'weights: expected only A and B of linear layers',
    ],
  ])('refuses an adapter with %s', async (_, options, message) => {
    const model = await modelOf('llama', {attentionBias: true});
    model.applyLoRA({rank: 2, ...options});
    expect(await errorOf(() => model.saveAdapterGguf(new Map()))).toEqual({
      code: 'UNSUPPORTED',
      message: expect.stringMatching(
        new RegExp(
          `^saveAdapterGguf "default" ${message}.*Merge it instead: mergeLoRA\\(\\), then saveGguf\\(\\)`,
        ),
      ),
    });
    model.dispose();
  });

  it('refuses an adapter with a value head, which it would lose', async () => {
    const model = await modelOf('llama');
    model.applyLoRA({rank: 2}).addValueHead();
    expect((await errorOf(() => model.saveAdapterGguf(new Map()))).message).toContain(
      'value head: expected none, because GGUF stores none, got "one". Call removeValueHead() first.',
    );
    model.dispose();
  });

  it('writes an adapter of pissa as a plain one on request, and refuses it otherwise', async () => {
    const model = await modelOf('llama');
    await model.applyLoRA({rank: 2, targetModules: ['q_proj']}).initializeLoRA({method: 'pissa'});
    const error = await errorOf(() => model.saveAdapterGguf(new Map()));
    expect(error.message).toContain(
      'init_lora_weights: expected an adapter of the unchanged base, got "pissa"',
    );
    const files = new Map<string, Blob>();
    const {bytes} = await model.saveAdapterGguf(files, {convertToLoRA: true, type: 'f16'});
    expect(files.get('adapter-f16.gguf')?.size).toBe(bytes);
    model.dispose();
  });
});

describe('preTokenizerName', () => {
  it('refuses splits that llama.cpp does not have', () => {
    expect(() => preTokenizerName({model: {}, pre_tokenizer: {type: 'Whitespace'}})).toThrow(
      /pre_tokenizer: expected one of llama.cpp's, llama-bpe, .*, got {"type":"Whitespace"} with ignore_merges false/,
    );
  });

  it('knows splits whatever their spelling', () => {
    const pre_tokenizer = {use_regex: true, add_prefix_space: false, type: 'ByteLevel'};
    expect(preTokenizerName({model: {}, pre_tokenizer})).toBe('gpt-2');
  });
});

describe('mergeScores', () => {
  it('scores tokens by their first merge', () => {
    const merges = [
      ['a', 'b'],
      ['c', 'd'],
      ['ab', 'c'],
      ['a', 'bc'],
    ] as [string, string][];
    expect(mergeScores(['a', 'ab', 'cd', 'abc'], merges, new Set())).toEqual([-4, -0, -1, -2]);
  });

  it('refuses merges that no scores can order, unless the token is added', () => {
    const merges = [
      ['a', 'bc'],
      ['c', 'd'],
      ['ab', 'c'],
    ] as [string, string][];
    expect(() => mergeScores(['abc'], merges, new Set())).toThrow(
      'model.merges[2]: expected all merges that make "abc"',
    );
    expect(mergeScores(['abc'], merges, new Set(['abc']))).toEqual([-0]);
  });
});
