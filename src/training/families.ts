import {Gemma2ForCausalLM} from '../../models/gemma/gemma2.ts';
import {Gemma3ForCausalLM} from '../../models/gemma/gemma3.ts';
import {MistralForCausalLM} from '../../models/mistral/mistral.ts';
import {Phi3ForCausalLM} from '../../models/phi3/phi3.ts';
import {Qwen2ForCausalLM} from '../../models/qwen2/qwen2.ts';
import {Qwen3ForCausalLM} from '../../models/qwen3/qwen3.ts';
import {SmolLM3ForCausalLM} from '../../models/smollm3/smollm3.ts';
import {type Training, trainable} from './trainable.ts';

/** Mistral 7B and Nemo with training; used as `Llama` is. */
export const Mistral = trainable(MistralForCausalLM);
export type Mistral = Training & MistralForCausalLM;

/** Qwen 2 and 2.5 with training; used as `Llama` is. */
export const Qwen2 = trainable(Qwen2ForCausalLM);
export type Qwen2 = Training & Qwen2ForCausalLM;

/** Qwen 3, the dense models, with training; used as `Llama` is. */
export const Qwen3 = trainable(Qwen3ForCausalLM);
export type Qwen3 = Training & Qwen3ForCausalLM;

/** Gemma 2 with training; used as `Llama` is. */
export const Gemma2 = trainable(Gemma2ForCausalLM);
export type Gemma2 = Training & Gemma2ForCausalLM;

/** Gemma 3, text only, with training; used as `Llama` is. */
export const Gemma3 = trainable(Gemma3ForCausalLM);
export type Gemma3 = Training & Gemma3ForCausalLM;

/** Phi-3, 3.5 and 4 with training; used as `Llama` is. */
export const Phi3 = trainable(Phi3ForCausalLM);
export type Phi3 = Training & Phi3ForCausalLM;

/** SmolLM3 with training; used as `Llama` is. */
export const SmolLM3 = trainable(SmolLM3ForCausalLM);
export type SmolLM3 = Training & SmolLM3ForCausalLM;
