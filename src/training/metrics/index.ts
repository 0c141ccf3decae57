/**
 * `tfjs-lora/metrics`: BLEU and ROUGE, both LLaMA-Factory's and the standard English ones.
 *
 * @module tfjs-lora/metrics
 */
export {type BleuScore, characterBleu, corpusBleu} from './bleu.ts';
export {type LlamaFactoryScores, llamaFactoryScores} from './llamaFactoryScores.ts';
export {meanRouge, type RougeOptions, type RougeScore, type RougeScores, rouge} from './rouge.ts';
