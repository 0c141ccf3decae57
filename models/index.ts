/**
 * `tfjs-lora/models`: whole models, with their checkpoints, adapters, tokenizer and generation.
 *
 * @module tfjs-lora/models
 */
export {type Batch, IGNORE_INDEX} from './batchLoss.ts';
export {CausalLM, type ForwardOptions, type FromConfigOptions, type PredictOptions} from './causalLM.ts';
export type {GemmaConfig} from './gemma/config.ts';
export {Gemma2ForCausalLM} from './gemma/gemma2.ts';
export {type Gemma3Config, Gemma3ForCausalLM} from './gemma/gemma3.ts';
export type {DecodedAdapters, DecodedModel} from './generation/decoder.ts';
export {type ChatOptions, chat, generate, generateIds, stream, streamTokens} from './generation/generate.ts';
export type {
  GenerateOptions,
  GenerateProgress,
  GenerativeModel,
  Prompt,
  StreamTokensOptions,
} from './generation/generateOptions.ts';
export type {JsonSchema} from './generation/json/jsonGrammar.ts';
export type {GeneratedToken} from './generation/row.ts';
export {defaultGenerationConfig, type GenerationConfig} from './generationConfig.ts';
export {GGUF_FILE_TYPES, type GgufFileType} from './gguf/ggufFileType.ts';
export type {SaveAdapterGgufOptions} from './gguf/saveAdapterGguf.ts';
export type {SaveGgufOptions, SaveGgufResult} from './gguf/saveGguf.ts';
export {loadAdapter, type SaveAdapterOptions, saveAdapter} from './keras/adapterFolders.ts';
export {applyLoRA} from './keras/applyLoRA.ts';
export {mergeLoRA} from './keras/mergeLoRA.ts';
export {quantize} from './keras/quantize.ts';
export type {LayerProgress, LayerWatch} from './layerWatch.ts';
export {
  formatConfig,
  type LlamaConfig,
  type LlamaConfigArgs,
  parseConfig,
} from './llama/config.ts';
export {DecoderBlock, type DecoderBlockArgs} from './llama/decoderBlock.ts';
export {LlamaForCausalLM} from './llama/llama.ts';
export {presets} from './llama/presets.ts';
export type {LlamaPreset} from './llama/resolveConfig.ts';
export {type LayerType, layerTypeOf, type SlidingConfig, windowOf} from './llama/slidingWindow.ts';
export type {LoadOptions} from './loadPretrained.ts';
export {type MistralConfig, MistralForCausalLM} from './mistral/mistral.ts';
export type {CausalLMConfig, ModelClass} from './modelClass.ts';
export {modelClassOf, modelTypes, registerModel} from './modelRegistry.ts';
export {ModuleModel} from './moduleModel.ts';
export {AdaptableModel} from './peft/adaptableModel.ts';
export type {MergeAdaptersOptions} from './peft/adapterMerge.ts';
export {peftTypes, registerAdapter} from './peft/adapterRegistry.ts';
export type {AdaptedLayerStatus, AdapterStatus, AdaptersStatus} from './peft/adapterStatus.ts';
export type {CombinationType, CombineAdaptersOptions} from './peft/combineAdapters.ts';
export type {HotswapAdapterOptions, PrepareHotswapOptions} from './peft/hotswapAdapter.ts';
export type {CordaConfig} from './peft/initialization/corda.ts';
export type {EvaConfig} from './peft/initialization/eva.ts';
export type {InitializationName} from './peft/initialization/initializations.ts';
export type {InitializeLoRAOptions} from './peft/initialization/initializeLoRAOptions.ts';
export type {LoraGAConfig} from './peft/initialization/loraGA.ts';
export type {LoadAdapterOptions} from './peft/loadAdapter.ts';
export type {LoRAOptions, LoRAOptionsOf} from './peft/loraOptions.ts';
export {formatPeftConfig, parsePeftConfig} from './peft/peftConfig.ts';
export type {RowAdapters} from './peft/rowAdapters.ts';
export type {SaveAdapterFilesOptions} from './peft/saveAdapter.ts';
export {
  matchTargets,
  type TargetCandidates,
  type TargetModules,
  type TargetOptions,
} from './peft/targetModules.ts';
export type {MajoritySign} from './peft/taskArithmetic.ts';
export type {TrainedBiases} from './peft/trainedBiases.ts';
export {type Phi3Config, Phi3ForCausalLM} from './phi3/phi3.ts';
export type {QuantizationOptions} from './quantization.ts';
export {Qwen2ForCausalLM, type QwenConfig} from './qwen2/qwen2.ts';
export {Qwen3ForCausalLM} from './qwen3/qwen3.ts';
export type {LayerRange} from './replaceLayer.ts';
export type {SaveOptions, TensorProgress} from './savePretrained.ts';
export {type SmolLM3Config, SmolLM3ForCausalLM} from './smollm3/smollm3.ts';
export {countParameters, type ParameterCounts} from './summary.ts';
export {type ChatMessage, type ChatTemplateOptions, Tokenizer} from './tokenizer.ts';
export {type LoadValueHeadOptions, readValueHead, type ValueHeadOptions} from './valueHeadFile.ts';
export type {ValueBatch, ValueOptions} from './values.ts';
