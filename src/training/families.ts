import {MistralForCausalLM} from '../../models/mistral/mistral.ts';
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

/** SmolLM3 with training; used as `Llama` is. */
export const SmolLM3 = trainable(SmolLM3ForCausalLM);
export type SmolLM3 = Training & SmolLM3ForCausalLM;
