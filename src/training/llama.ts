import {LlamaForCausalLM} from '../../models/llama/llama.ts';
import {type Training, trainable} from './trainable.ts';

/** Llama with training: all text models of Meta's Llama 3.2, 3.1, 3 and 2. */
export const Llama = trainable(LlamaForCausalLM);
export type Llama = Training & LlamaForCausalLM;
