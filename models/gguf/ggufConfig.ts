import type {GgufFiles} from '../../quant/gguf/ggufFiles.ts';
import {ggufRope} from './ggufRope.ts';
import type {MetadataReader} from './metadataReader.ts';
import type {GgufArchitecture} from './tensorNames.ts';

type Json = Record<string, unknown>;

/** Keys of an architecture, without its name before them, that are read here or change nothing. */
const KNOWN = new Set([
  'vocab_size',
  'context_length',
  'block_count',
  'embedding_length',
  'feed_forward_length',
  'attention.head_count',
  'attention.head_count_kv',
  'attention.key_length',
  'attention.value_length',
  'attention.layer_norm_rms_epsilon',
  'attention.layer_norm_epsilon',
  'attention.sliding_window',
  'rope.dimension_count',
  'rope.freq_base',
  'rope.scaling.type',
  'rope.scaling.factor',
  'rope.scaling.original_context_length',
  'rope.scaling.attn_factor',
  'rope.scaling.finetuned',
  'rope.scaling.yarn_beta_fast',
  'rope.scaling.yarn_beta_slow',
  'rope.scale_linear',
]);
/** Keys that only some architectures have, and that llama.cpp ignores in the others. */
const KNOWN_OF: Readonly<Record<string, readonly string[]>> = {
  gemma2: ['attention.sliding_window_pattern', 'attn_logit_softcapping', 'final_logit_softcapping'],
  gemma3: ['attention.sliding_window_pattern', 'rope.freq_base_swa', 'final_logit_softcapping'],
};
/** Keys that may only have the value that switches them off. */
const OFF: Readonly<Record<string, unknown>> = {
  'attention.causal': true,
  expert_count: 0,
  expert_used_count: 0,
  use_parallel_residual: false,
  'rope.scaling.yarn_ext_factor': 1,
  'rope.scaling.yarn_attn_factor': 1,
};

/** The sizes of the Gemmas whose queries are not divided by the square root of a head, by their number of blocks. */
const GEMMA_27B_BLOCKS: Readonly<Record<string, number>> = {gemma2: 46, gemma3: 62};

/**
 * Returns the `config.json` of a GGUF model, from its metadata and the shapes of its tensors. It describes what
 * llama.cpp computes, including its own constants: windows, and scales of Gemma's queries.
 *
 * @throws TfjsLoraError `INVALID_CONFIG` naming a missing or impossible key; `UNSUPPORTED` naming one that is not read
 */
export async function ggufConfig(
  architecture: GgufArchitecture,
  metadata: MetadataReader,
  files: GgufFiles,
): Promise<Json> {
  const {name, modelType} = architecture;
  assertKeysKnown(name, metadata);
  const key = (own: string) => `${name}.${own}`;
  const size = (own: string) => metadata.required(key(own), metadata.count(key(own)));
  const [hidden, heads] = [size('embedding_length'), size('attention.head_count')];
  if (size('block_count') > files.tensors.size)
    throw metadata.wrong(
      key('block_count'),
      `at most ${files.tensors.size}, as many as tensors`,
      `${size('block_count')}`,
    );
  const rotated = metadata.count(key('rope.dimension_count'));
  const headDim =
    metadata.count(key('attention.key_length')) ?? headSizeOf(architecture, rotated, hidden, heads);
  const valueDim = metadata.count(key('attention.value_length'));
  if (valueDim !== undefined && valueDim !== headDim)
    throw metadata.unsupported(key('attention.value_length'), `${headDim}, the size of keys`, valueDim);
  if (rotated !== undefined && rotated !== headDim && modelType !== 'phi3')
    throw metadata.unsupported(key('rope.dimension_count'), `${headDim}, the size of a head`, rotated);
  const hasTensor = (tensor: string) => files.tensors.has(tensor);
  return {
    architectures: [architecture.transformersClass],
    model_type: modelType,
    vocab_size: files.tensors.get('token_embd.weight')?.shape[0] ?? size('vocab_size'),
    hidden_size: hidden,
    intermediate_size: size('feed_forward_length'),
    num_hidden_layers: size('block_count'),
    num_attention_heads: heads,
    num_key_value_heads: metadata.count(key('attention.head_count_kv')) ?? heads,
    head_dim: headDim,
    max_position_embeddings: size('context_length'),
    rms_norm_eps: metadata.required(
      key('attention.layer_norm_rms_epsilon'),
      metadata.number(key('attention.layer_norm_rms_epsilon')),
    ),
    ...(await ggufRope(architecture, metadata, files, headDim)),
    tie_word_embeddings: !hasTensor('output.weight'),
    ...(modelType === 'llama' && {
      attention_bias: hasTensor('blk.0.attn_q.bias'),
      mlp_bias: hasTensor('blk.0.ffn_down.bias'),
    }),
    ...windows(architecture, metadata),
    ...(modelType.startsWith('gemma') && gemmaSettings(architecture, metadata, hidden, heads, headDim)),
    ...(modelType === 'phi3' && rotated !== undefined && {partial_rotary_factor: rotated / headDim}),
    ...specialIds(metadata),
  };
}

/** Returns the size of a head that the file does not state. */
function headSizeOf(
  {isPermuted}: GgufArchitecture,
  rotated: number | undefined,
  hidden: number,
  heads: number,
): number {
  return (isPermuted ? rotated : undefined) ?? hidden / heads;
}

/** Refuses settings of the architecture that are not read, because the model would compute something else. */
function assertKeysKnown(name: string, metadata: MetadataReader): void {
  for (const [key, entry] of metadata.values) {
    if (!key.startsWith(`${name}.`)) continue;
    const own = key.slice(name.length + 1);
    if (KNOWN.has(own) || KNOWN_OF[name]?.includes(own)) continue;
    const value = 'value' in entry ? entry.value : entry.items.values;
    if (own in OFF && OFF[own] === value) continue;
    const expected = own in OFF ? String(OFF[own]) : 'no such setting';
    throw metadata.unsupported(key, expected, value);
  }
}

/** Returns the settings of sliding windows, which the architectures have in different ways. */
function windows({name}: GgufArchitecture, metadata: MetadataReader): Json {
  const key = `${name}.attention.sliding_window`;
  const window = metadata.count(key) ?? 0;
  switch (name) {
    case 'gemma2':
      return {sliding_window: window || 4096, layer_types: layerTypes(name, metadata, 2)};
    case 'gemma3':
      return {
        sliding_window: metadata.required(key, window || undefined),
        layer_types: layerTypes(name, metadata, 6),
      };
    case 'phi3':
      return {sliding_window: window || null};
    case 'qwen2':
    case 'qwen3':
    case 'smollm3':
      if (window > 0) throw metadata.unsupported(key, '0, because llama.cpp ignores it', window);
      return {use_sliding_window: false};
    default:
      if (window > 0) throw metadata.unsupported(key, '0, because llama.cpp ignores it', window);
      return {};
  }
}

/** Returns the type of each layer: as the file lists them, or the last of each `period` sees all positions. */
function layerTypes(name: string, metadata: MetadataReader, usualPeriod: number): string[] {
  const key = `${name}.attention.sliding_window_pattern`;
  const length = metadata.count(`${name}.block_count`) ?? 0;
  const isList = metadata.values.get(key)?.type === 'array';
  const listed = isList ? metadata.flags(key) : undefined;
  if (listed && listed.length !== length)
    throw metadata.wrong(key, `${length} flags, one for each block`, `${listed.length}`);
  const period = (isList ? undefined : metadata.count(key)) ?? usualPeriod;
  const isLocal = (i: number) => listed?.[i] ?? (period === 0 || i % period < period - 1);
  return Array.from({length}, (_, i) => (isLocal(i) ? 'sliding_attention' : 'full_attention'));
}

function gemmaSettings(
  {name}: GgufArchitecture,
  metadata: MetadataReader,
  hidden: number,
  heads: number,
  headDim: number,
): Json {
  const isLargest = metadata.count(`${name}.block_count`) === GEMMA_27B_BLOCKS[name];
  const cap = (key: string, ofGemma2: number) =>
    metadata.number(`${name}.${key}`) ?? (name === 'gemma2' ? ofGemma2 : null);
  return {
    hidden_activation: 'gelu_pytorch_tanh',
    query_pre_attn_scalar: isLargest ? hidden / heads : headDim,
    attn_logit_softcapping: cap('attn_logit_softcapping', 50),
    final_logit_softcapping: cap('final_logit_softcapping', 30),
    ...(name === 'gemma3' && {rope_local_base_freq: metadata.number(`${name}.rope.freq_base_swa`) ?? 10000}),
  };
}

/** Returns the ids of special tokens. A model may end its text with more tokens than one. */
function specialIds(metadata: MetadataReader): Json {
  const id = (name: string) => metadata.count(`tokenizer.ggml.${name}_token_id`);
  const ends = [...new Set(['eos', 'eot', 'eom'].map(id).filter((end) => end !== undefined))];
  const entries = {
    bos_token_id: id('bos'),
    eos_token_id: ends.length > 1 ? ends : ends[0],
    pad_token_id: id('padding'),
  };
  return Object.fromEntries(Object.entries(entries).filter(([, value]) => value !== undefined));
}
