/** How a GGUF file of an architecture names and stores the tensors of a model. */
export interface GgufArchitecture {
  /** `general.architecture`, with which the file's own keys begin. */
  readonly name: string;
  /** `model_type` of the family in `config.json`. */
  readonly modelType: string;
  /** Name of the family's class in transformers, for `architectures` in `config.json`. */
  readonly transformersClass: string;
  /** Modules of a block by the name that the file has for them. */
  readonly blockModules: Readonly<Record<string, string>>;
  /** Whether rows of q and k are in the order of interleaved rotation, instead of the halves' order. */
  readonly isPermuted?: boolean;
  /** The number that the file's norm weights add to the model's. Default 0. */
  readonly normOffset?: number;
}

const SHARED = {
  attn_norm: 'input_layernorm',
  attn_output: 'self_attn.o_proj',
  ffn_down: 'mlp.down_proj',
};
const LLAMA = {
  ...SHARED,
  attn_q: 'self_attn.q_proj',
  attn_k: 'self_attn.k_proj',
  attn_v: 'self_attn.v_proj',
  ffn_gate: 'mlp.gate_proj',
  ffn_up: 'mlp.up_proj',
  ffn_norm: 'post_attention_layernorm',
};
const HEAD_NORMS = {attn_q_norm: 'self_attn.q_norm', attn_k_norm: 'self_attn.k_norm'};
const GEMMA = {
  ...LLAMA,
  ffn_norm: 'pre_feedforward_layernorm',
  post_attention_norm: 'post_attention_layernorm',
  post_ffw_norm: 'post_feedforward_layernorm',
};
const PHI3 = {
  ...SHARED,
  attn_qkv: 'self_attn.qkv_proj',
  ffn_up: 'mlp.gate_up_proj',
  ffn_norm: 'post_attention_layernorm',
};

/** The architectures that are read, as llama.cpp names them. A Mistral's file calls itself `llama`. */
export const GGUF_ARCHITECTURES: readonly GgufArchitecture[] = [
  {
    name: 'llama',
    modelType: 'llama',
    transformersClass: 'LlamaForCausalLM',
    blockModules: LLAMA,
    isPermuted: true,
  },
  {
    name: 'smollm3',
    modelType: 'smollm3',
    transformersClass: 'SmolLM3ForCausalLM',
    blockModules: LLAMA,
    isPermuted: true,
  },
  {name: 'qwen2', modelType: 'qwen2', transformersClass: 'Qwen2ForCausalLM', blockModules: LLAMA},
  {
    name: 'qwen3',
    modelType: 'qwen3',
    transformersClass: 'Qwen3ForCausalLM',
    blockModules: {...LLAMA, ...HEAD_NORMS},
  },
  {
    name: 'gemma2',
    modelType: 'gemma2',
    transformersClass: 'Gemma2ForCausalLM',
    blockModules: GEMMA,
    normOffset: 1,
  },
  {
    name: 'gemma3',
    modelType: 'gemma3_text',
    transformersClass: 'Gemma3ForCausalLM',
    blockModules: {...GEMMA, ...HEAD_NORMS},
    normOffset: 1,
  },
  {name: 'phi3', modelType: 'phi3', transformersClass: 'Phi3ForCausalLM', blockModules: PHI3},
];

const MODULES: Readonly<Record<string, string>> = {
  token_embd: 'model.embed_tokens',
  output_norm: 'model.norm',
  output: 'lm_head',
};

/** Tensors that belong to the config: divisors of rotary frequencies. */
export const ROPE_TENSORS = ['rope_freqs.weight', 'rope_factors_long.weight', 'rope_factors_short.weight'];

/** Returns the model's name of a file's tensor; undefined for one that the architecture does not have. */
export function modelTensorName({blockModules}: GgufArchitecture, name: string): string | undefined {
  const parts = /^(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)$/.exec(name);
  if (!parts) return undefined;
  const [, block, module, kind] = parts;
  const modules = block === undefined ? MODULES : blockModules;
  if (!Object.hasOwn(modules, module)) return undefined;
  return `${block === undefined ? '' : `model.layers.${block}.`}${modules[module]}.${kind}`;
}

/** Returns the file's name of a model's tensor; undefined for one that the architecture does not have. */
export function ggufTensorName({blockModules}: GgufArchitecture, name: string): string | undefined {
  const parts = /^(?:model\.layers\.(\d+)\.)?(.+)\.(weight|bias)$/.exec(name);
  if (!parts) return undefined;
  const [, block, module, kind] = parts;
  const found = Object.entries(block === undefined ? MODULES : blockModules).find(
    ([, own]) => own === module,
  );
  return found && `${block === undefined ? '' : `blk.${block}.`}${found[0]}.${kind}`;
}
