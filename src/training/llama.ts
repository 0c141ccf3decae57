import {LlamaForCausalLM} from '../../models/llama/llama.ts';
import {type Training, trainable} from './trainable.ts';

/**
 * Llama with training: all text models of Meta's Llama 3.2, 3.1, 3 and 2. {@link Training} has the methods that train,
 * {@link LlamaForCausalLM} all others.
 *
 * @example
 * ```ts
 * import {AdamW, Llama} from 'tfjs-lora';
 *
 * const model = await Llama.fromPretrained('Llama-3.2-1B-Instruct');
 * model.applyLoRA({rank: 8, targetModules: 'all-linear'});
 * model.compile({optimizer: new AdamW({learningRate: 1e-4})});
 * await model.fitDataset([{prompt: 'Who founded Adaville?', completion: 'Ada did.'}], {epochs: 20});
 * console.log(await model.chat([{role: 'user', content: 'Who founded Adaville?'}]));
 * await model.saveAdapter('adapter');
 * model.dispose();
 * ```
 */
export const Llama = trainable(LlamaForCausalLM);
export type Llama = Training & LlamaForCausalLM;
