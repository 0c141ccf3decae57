import * as tf from '@tensorflow/tfjs';
import {formatConfig, parseConfig} from '../../../models/llama/config.ts';
import {LlamaForCausalLM} from '../../../models/llama/llama.ts';
import {countParameters} from '../../../models/summary.ts';
import {errorOf} from '../tinyLlama.ts';

const common = {
  model_type: 'llama',
  vocab_size: 19,
  hidden_size: 8,
  intermediate_size: 12,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  hidden_act: 'silu',
};
const llama3 = {
  rope_type: 'llama3',
  factor: 8,
  low_freq_factor: 1,
  high_freq_factor: 4,
  original_max_position_embeddings: 32,
};
const scaling = {
  type: 'llama3',
  factor: 8,
  lowFreqFactor: 1,
  highFreqFactor: 4,
  originalMaxPositionEmbeddings: 32,
};

describe('config.json', () => {
  test('reads the spellings of transformers 4 and 5 alike', () => {
    const four = parseConfig({...common, rope_theta: 500, rope_scaling: llama3, torch_dtype: 'bfloat16'});
    const five = parseConfig({...common, rope_parameters: {rope_theta: 500, ...llama3}, dtype: 'bfloat16'});
    expect({...four, source: 0}).toEqual({...five, source: 0});
    expect(four).toMatchObject({ropeTheta: 500, ropeScaling: scaling, headDim: 2, numKeyValueHeads: 2});
  });

  test('has the defaults of transformers', () => {
    expect(
      parseConfig({...common, num_key_value_heads: undefined, rope_scaling: null, head_dim: null}),
    ).toMatchObject({
      numKeyValueHeads: 4,
      headDim: 2,
      maxPositionEmbeddings: 2048,
      rmsNormEps: 1e-6,
      ropeTheta: 10000,
      ropeScaling: undefined,
      tieWordEmbeddings: false,
      attentionBias: false,
    });
  });

  test('is written with the spelling of its source', () => {
    const four = {...common, rope_theta: 500, rope_scaling: llama3, torch_dtype: 'bfloat16', extra: [1]};
    expect(formatConfig(parseConfig(four), 'float32')).toEqual({...four, torch_dtype: 'float32'});
    const five = {...common, rope_parameters: {rope_theta: 500, ...llama3}, dtype: 'bfloat16'};
    expect(formatConfig(parseConfig(five), 'float16')).toEqual({...five, dtype: 'float16'});
  });

  test('is written and read back without a source', () => {
    const long = {originalMaxPositionEmbeddings: 32, attentionFactor: 1.2};
    for (const ropeScaling of [
      undefined,
      scaling,
      {type: 'linear', factor: 4},
      {type: 'dynamic', factor: 4, originalMaxPositionEmbeddings: 2048},
      {type: 'yarn', factor: 4, ...long, betaFast: 32, betaSlow: 1, truncate: false},
      {type: 'longrope', ...long, shortFactor: [1], longFactor: [2]},
    ]) {
      const args = {
        vocabSize: 19,
        hiddenSize: 8,
        intermediateSize: 12,
        numHiddenLayers: 2,
        numAttentionHeads: 4,
        ropeScaling,
        eosTokenId: [1, 2],
      };
      const config = LlamaForCausalLM.resolveConfig(args as never);
      const {source, ...read} = parseConfig(formatConfig(config, 'float32'));
      expect(read).toEqual({...config, bosTokenId: undefined, padTokenId: undefined});
    }
  });

  test.each([
    ['another model', {model_type: 'mistral'}, 'UNSUPPORTED', 'model_type: expected "llama", got "mistral"'],
    ['another activation', {hidden_act: 'gelu'}, 'UNSUPPORTED', 'hidden_act: expected "silu", got "gelu"'],
    ['a missing size', {vocab_size: undefined}, 'INVALID_CONFIG', 'vocab_size: expected a value, got none'],
    ['a size of text', {hidden_size: '8'}, 'INVALID_CONFIG', 'expected a positive integer, got "8"'],
    ['a negative size', {num_hidden_layers: -1}, 'INVALID_CONFIG', 'expected a positive integer, got -1'],
    [
      'heads that do not divide',
      {num_key_value_heads: 3},
      'INVALID_CONFIG',
      'expected a divisor of 4 heads, got 3',
    ],
    ['an odd head', {head_dim: 3}, 'INVALID_CONFIG', 'expected an even number, got 3'],
    ['epsilon 0', {rms_norm_eps: 0}, 'INVALID_CONFIG', 'expected a positive number, got 0'],
    [
      'unknown rope',
      {rope_scaling: {rope_type: 'proportional'}},
      'UNSUPPORTED',
      'expected default, linear, dynamic, yarn, longrope or llama3, got "proportional"',
    ],
    [
      'half a rope',
      {rope_scaling: {rope_type: 'llama3', factor: 8}},
      'INVALID_CONFIG',
      'low_freq_factor: expected a number above 0, got undefined',
    ],
    [
      'a rope of text',
      {rope_scaling: 'llama3'},
      'INVALID_CONFIG',
      'rope_scaling: expected an object, got "llama3"',
    ],
    ['a flag of text', {tie_word_embeddings: 'no'}, 'INVALID_CONFIG', 'expected true or false, got "no"'],
    [
      'an id of text',
      {eos_token_id: ['2']},
      'INVALID_CONFIG',
      'eos_token_id: expected a token id, got ["2"]',
    ],
    ['a range of text', {initializer_range: {}}, 'INVALID_CONFIG', 'expected a number from 0, got {}'],
  ])('refuses %s', async (_, change, code, message) => {
    const error = await errorOf(() => parseConfig({...common, ...change}, 'x/config.json'));
    expect(error.code).toBe(code);
    expect(error.message).toContain('x/config.json ');
    expect(error.message).toContain(message);
  });

  test('names the nearest preset when one is unknown', async () => {
    const {message} = await errorOf(() => LlamaForCausalLM.fromConfig('llama-3.2-1B'));
    expect(message).toContain(
      'expected one of llama-3.2-1b, llama-3.2-3b, llama-3.1-8b. Did you mean llama-3.2-1b?',
    );
  });
});

describe('presets, counted without allocating', () => {
  beforeAll(() => tf.setBackend('cpu'));
  const oneB = 1_235_814_400;
  test.each([
    ['llama-3.2-1b', {rank: 8}, 5_636_096, oneB],
    ['llama-3.2-1b', {rank: 16}, 11_272_192, oneB],
    ['llama-3.2-1b', {rank: 8, targetModules: ['q_proj', 'v_proj']}, 851_968, oneB],
    ['llama-3.2-3b', {rank: 8}, 12_156_928, 3_212_749_824],
    ['llama-3.1-8b', {rank: 8}, 20_971_520, 8_030_261_248],
  ] as const)('%s %j', (preset, options, trainable, base) => {
    const before = tf.memory();
    const model = LlamaForCausalLM.fromConfig(preset, {allocate: false, dtype: 'bfloat16'});
    expect(model.countParams()).toBe(base);
    model.applyLoRA({
      ...options,
      targetModules: 'targetModules' in options ? [...options.targetModules] : 'all-linear',
    });
    expect(countParameters(model)).toEqual({total: base + trainable, trainable});
    expect(tf.memory().numBytes).toBe(before.numBytes);
    const lines: string[] = [];
    model.summary(undefined, undefined, (line) => lines.push(line));
    expect(lines).toContain(`Total params: ${(base + trainable).toLocaleString('en-US')}`);
    expect(lines.find((line) => line.startsWith('Trainable params:'))).toContain(
      trainable.toLocaleString('en-US'),
    );
    expect(() => model.predict([[1]])).toThrow(/expected a value, got none.*load them first/);
    model.dispose();
    expect(tf.memory().numTensors).toBe(before.numTensors);
  });
});
