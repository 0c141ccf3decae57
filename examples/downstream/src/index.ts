/** Registers everything that this package adds to tfjs-lora; a program imports it, or `tfjs-lora --import`. */
export {Arcee, ArceeForCausalLM} from './arcee.ts';
export {GroupedInt4Tensor} from './groupedInt4.ts';
export {LoRAFAAdapter, LoRAFADense} from './loraFA.ts';
export {QUESTION_ANSWER} from './questionAnswer.ts';
export {squaredReLU} from './squaredReLU.ts';
export {Tiger, type TigerArgs} from './tiger.ts';
export {VeRAAdapter, VeRADense} from './vera.ts';
