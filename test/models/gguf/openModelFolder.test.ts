import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import type {CausalLM} from '../../../models/causalLM.ts';
import {openModelFolder} from '../../../models/gguf/openModelFolder.ts';
import {loadPretrained} from '../../../models/loadPretrained.ts';
import {modelClassOf} from '../../../models/modelRegistry.ts';
import {Tokenizer} from '../../../models/tokenizer.ts';
import {ggmlType} from '../../../quant/gguf/ggmlTypes.ts';
import {GgufFiles} from '../../../quant/gguf/ggufFiles.ts';
import type {GgufValue} from '../../../quant/gguf/ggufValue.ts';
import {type GgufTensor, ggufFile} from '../../../quant/gguf/writeGguf.ts';

const FIXTURES = join(__dirname, '../../parity/gguf/fixtures');
const fixture = (name: string) => join(FIXTURES, `${name}.gguf`);
const load = (...args: Parameters<typeof loadPretrained> extends [unknown, ...infer Rest] ? Rest : never) =>
  loadPretrained<CausalLM>(modelClassOf, ...args);
const blob = (bytes: Uint8Array) => new Blob([bytes as Uint8Array<ArrayBuffer>]);

beforeAll(() => tf.setBackend('cpu'));

describe('GGUF models', () => {
  it('load from a path, a folder with one, and the files themselves', async () => {
    const bytes = readFileSync(fixture('qwen3'));
    for (const source of [
      fixture('qwen3'),
      new Map([['a.gguf', blob(bytes)]]),
      [new File([bytes], 'a.gguf')],
    ]) {
      const model = await load(source);
      expect(model.modelType).toBe('qwen3');
      expect(model.storage).toBe('bfloat16'); // all its matrices are
      model.dispose();
    }
  });

  it('are chosen by name where there are several', async () => {
    await expect(load(FIXTURES)).rejects.toThrow(
      /expected one GGUF model, got gemma2\.gguf, .*the option ggufFile/,
    );
    const model = await load(FIXTURES, {ggufFile: 'llama.gguf', dtype: 'bfloat16', quantization: 'nf4'});
    expect(model.nameOrPath).toBe(fixture('llama'));
    expect(model.storage).toBe('bfloat16');
    model.dispose();
    await expect(load(join(FIXTURES, 'none.gguf'))).rejects.toMatchObject({
      code: 'FILE_NOT_FOUND',
      message: expect.stringContaining('none.gguf]: expected a readable file, got none of that name.'),
    });
  });

  it('give way to safetensors in the same folder', async () => {
    const model = await load(fixture('llama'));
    const files = new Map<string, Blob>([['other.gguf', blob(readFileSync(fixture('qwen2')))]]);
    await model.save(files);
    expect([...files.keys()]).toEqual(
      expect.arrayContaining(['config.json', 'tokenizer.json', 'model.safetensors']),
    );
    const again = await load(files);
    expect(again.modelType).toBe('llama');
    expect(await again.predict([[5, 6, 7]]).array()).toEqual(await model.predict([[5, 6, 7]]).array());
    expect(again.tokenizer?.encode('The rivers')).toEqual(model.tokenizer?.encode('The rivers'));
    model.dispose();
    again.dispose();
  });

  it('say what they contain in config.json', async () => {
    const config = async (name: string) =>
      JSON.parse(new TextDecoder().decode(await (await openModelFolder(fixture(name))).read('config.json')));
    expect(await config('llama')).toMatchObject({
      architectures: ['LlamaForCausalLM'],
      rms_norm_eps: 1e-6,
      rope_theta: 500000,
      rope_scaling: {rope_type: 'llama3', factor: 8, low_freq_factor: 1, high_freq_factor: 4},
      tie_word_embeddings: true,
      attention_bias: false,
      bos_token_id: 1,
      eos_token_id: 2,
    });
    expect(await config('llama-f16')).toMatchObject({
      attention_bias: true,
      mlp_bias: true,
      tie_word_embeddings: false,
    });
    expect(await config('phi3')).toMatchObject({
      partial_rotary_factor: 0.5,
      sliding_window: 9,
      original_max_position_embeddings: 16,
      rope_scaling: {rope_type: 'longrope', long_factor: [1, 4], short_factor: [1, 1.5]},
    });
    expect(await config('qwen2')).toMatchObject({rope_scaling: {rope_type: 'yarn', factor: 4}});
  });

  it.each(['llama', 'llama-f16', 'qwen2', 'gemma2', 'smollm3'])(
    '%s is the same after saveGguf',
    async (name) => {
      const model = await load(fixture(name));
      const files = new Map<string, Blob>();
      await model.saveGguf(files, {type: 'f32', fileName: 'model.gguf'});
      const again = await load(files);
      const {source: _, ...config} = model.config as {source?: unknown};
      expect(again.config).toMatchObject(config);
      for (const [key, parameter] of model.namedParameters()) {
        const [expected, got] = [parameter, again.namedParameters().get(key)!].map((each) =>
          each.toBytes('float32'),
        );
        expect({key, bytes: await got}).toEqual({key, bytes: await expected});
      }
      const text = 'The rivers of 2024\n\n  are wider <|end|>';
      expect(again.tokenizer?.encode(text)).toEqual(model.tokenizer?.encode(text));
      expect(again.tokenizer?.files.config).toEqual(model.tokenizer?.files.config);
      model.dispose();
      again.dispose();
    },
  );

  it('turn other divisors of rotary frequencies into a longrope', async () => {
    const changed = await edited('llama', {tensors: {'rope_freqs.weight': Float32Array.of(1, 2, 3, 4)}});
    const folder = await openModelFolder(changed);
    expect(JSON.parse(new TextDecoder().decode(await folder.read('config.json'))).rope_scaling).toEqual({
      rope_type: 'longrope',
      attention_factor: 1,
      original_max_position_embeddings: 64,
      long_factor: [1, 2, 3, 4],
      short_factor: [1, 2, 3, 4],
    });
  });

  it('may end a text with several tokens, and name several templates', async () => {
    const changed = await edited('llama', {
      metadata: {
        'tokenizer.ggml.eot_token_id': {type: 'uint32', value: 5},
        'tokenizer.chat_templates': {type: 'array', items: {type: 'string', values: ['tool_use']}},
        'tokenizer.chat_template.tool_use': {type: 'string', value: 'tools'},
      },
    });
    const model = await load(changed, {allocate: false});
    expect(model.generationConfig.eosTokenId).toEqual([2, 5]);
    const messages = [{role: 'user', content: 'x'}];
    expect(model.tokenizer?.applyChatTemplate(messages)).toBe('<|start|>x<|end|>');
    expect(model.tokenizer?.applyChatTemplate(messages, {tools: [{}]})).toBe('tools');
    model.dispose();
  });

  it('have windows where they say, and rotary positions stretched linearly by default', async () => {
    const key = 'gemma3.attention.sliding_window_pattern';
    const rope = {'gemma3.rope.scaling.factor': {type: 'float32', value: 4} as const};
    const configOf = async (pattern: GgufValue) => {
      const folder = await openModelFolder(
        await edited('gemma3', {metadata: {...rope, [key]: pattern}, without: 'gemma3.rope.scaling.type'}),
      );
      return JSON.parse(new TextDecoder().decode(await folder.read('config.json')));
    };
    const {layer_types: all, rope_scaling} = await configOf({type: 'uint32', value: 0});
    expect(rope_scaling).toEqual({rope_type: 'linear', factor: 4});
    const types = (flags: number[]) =>
      flags.map((flag) => (flag === 1 ? 'sliding_attention' : 'full_attention'));
    expect(all).toEqual(types(all.map(() => 1)));
    const flags = all.map((_: string, i: number) => 1 - (i % 2));
    const listed = (values: number[]) => configOf({type: 'array', items: {type: 'uint32', values}});
    expect((await listed(flags)).layer_types).toEqual(types(flags));
    await expect(listed([1])).rejects.toThrow(
      `${key}: expected ${all.length} flags, one for each block, got 1`,
    );
  });

  it.each<[string, Edit, string, string]>([
    [
      'an architecture',
      {metadata: {'general.architecture': {type: 'string', value: 'mamba'}}},
      'UNSUPPORTED',
      'general.architecture: expected one of llama, smollm3, qwen2, qwen3, gemma2, gemma3, phi3, got "mamba"',
    ],
    [
      'a setting that is not known',
      {metadata: {'llama.logit_scale': {type: 'float32', value: 2}}},
      'UNSUPPORTED',
      'llama.logit_scale: expected no such setting, got 2',
    ],
    [
      "another architecture's setting",
      {metadata: {'llama.final_logit_softcapping': {type: 'float32', value: 30}}},
      'UNSUPPORTED',
      'llama.final_logit_softcapping: expected no such setting, got 30',
    ],
    [
      'a factor of attention that llama.cpp would apply',
      {
        metadata: {'llama.rope.scaling.attn_factor': {type: 'float32', value: 2}},
        without: 'rope_freqs.weight',
      },
      'UNSUPPORTED',
      'llama.rope.scaling.attn_factor: expected 1 with none, got 2',
    ],
    [
      'experts',
      {metadata: {'llama.expert_count': {type: 'uint32', value: 8}}},
      'UNSUPPORTED',
      'llama.expert_count: expected 0, got 8',
    ],
    [
      'a window that llama.cpp ignores',
      {metadata: {'llama.attention.sliding_window': {type: 'uint32', value: 8}}},
      'UNSUPPORTED',
      'llama.attention.sliding_window: expected 0, because llama.cpp ignores it, got 8',
    ],
    [
      'values of another size than keys',
      {metadata: {'llama.attention.value_length': {type: 'uint32', value: 4}}},
      'UNSUPPORTED',
      'llama.attention.value_length: expected 8, the size of keys, got 4',
    ],
    [
      'a missing size',
      {without: 'llama.block_count'},
      'INVALID_CONFIG',
      'llama.block_count: expected a value, got none',
    ],
    [
      'sizes of each layer',
      {metadata: {'llama.attention.head_count': {type: 'array', items: {type: 'uint32', values: [4, 2]}}}},
      'INVALID_CONFIG',
      'llama.attention.head_count: expected a whole number from 0, got a list',
    ],
    [
      'another kind of tokenizer',
      {metadata: {'tokenizer.ggml.model': {type: 'string', value: 't5'}}},
      'UNSUPPORTED',
      'tokenizer.ggml.model: expected gpt2 or llama, got "t5"',
    ],
    [
      'another split of texts',
      {metadata: {'tokenizer.ggml.pre': {type: 'string', value: 'chameleon'}}},
      'UNSUPPORTED',
      'tokenizer.ggml.pre: expected one of llama-bpe,',
    ],
    [
      'an id without a token',
      {metadata: {'tokenizer.ggml.bos_token_id': {type: 'uint32', value: 9999}}},
      'INVALID_CONFIG',
      'tokenizer.ggml.bos_token_id: expected an id below 320, got 9999',
    ],
    [
      'a tensor without a place',
      {tensors: {'blk.0.attn_q_norm.weight': new Float32Array(8)}},
      'UNEXPECTED_TENSOR',
      'tensor "blk.0.attn_q_norm.weight" [model.gguf]: expected only tensors of the architecture llama',
    ],
    [
      'a missing tensor',
      {without: 'blk.1.ffn_up.weight'},
      'MISSING_TENSOR',
      'expected tensor model.layers.1.mlp.up_proj.weight, got none of that name',
    ],
  ])('are refused for %s', async (_, edit, code, message) => {
    await expect(edited('llama', edit).then((files) => load(files, {allocate: false}))).rejects.toMatchObject(
      {
        code,
        message: expect.stringContaining(message),
      },
    );
  });

  it('have a tokenizer of their own', async () => {
    await expect(Tokenizer.fromFolder(fixture('qwen3'))).rejects.toThrow(
      'expected a readable file, got none',
    );
    expect((await Tokenizer.fromFolder(fixture('llama-f16'))).addsBosToken).toBe(true);
  });
});

interface Edit {
  metadata?: Record<string, GgufValue>;
  tensors?: Record<string, Float32Array>;
  /** A key or tensor to leave out. */
  without?: string;
}

/** Returns a fixture with other settings and tensors. */
async function edited(
  name: string,
  {metadata = {}, tensors = {}, without}: Edit,
): Promise<Map<string, Blob>> {
  const files = await GgufFiles.open(FIXTURES, `${name}.gguf`);
  const kept = new Map([...files.metadata].filter(([key]) => key !== without));
  for (const [key, value] of Object.entries(metadata)) kept.set(key, value);
  const written: GgufTensor[] = [...files.tensors]
    .filter(([tensor]) => tensor !== without && !(tensor in tensors))
    .map(([tensor, {type, shape}]) => ({name: tensor, type, shape, data: () => files.load(tensor)}));
  for (const [tensor, values] of Object.entries(tensors))
    written.push({name: tensor, type: ggmlType('F32'), shape: [values.length], data: () => values});
  const pieces: Uint8Array[] = [];
  for await (const piece of ggufFile(kept, written, 'model.gguf').pieces()) pieces.push(piece);
  files.close();
  return new Map([['model.gguf', blob(Buffer.concat(pieces))]]);
}
