/**
 * `tfjs-lora` in a browser: the package without what needs a disk, a server or a terminal of its own: data sets in
 * LLaMA-Factory's format, the hub's cache, predictions, plots, serving and the terminal chat.
 */

export {Dense, type DenseArgs} from '../layers/dense.ts';
export {DEFAULT_ADAPTER, LoRADense, type LoRADenseArgs, type MergeOptions} from '../layers/loraDense.ts';
export {type CompileProgress, compileShaders} from '../layers/ops/compileShaders.ts';
export {globalNorm} from '../layers/ops/globalNorm.ts';
export type {QuantizationArgs, QuantizationType} from '../layers/quantizationArgs.ts';
export {QuantizedDense, type QuantizedDenseArgs} from '../layers/quantizedDense.ts';
export {type Batch, IGNORE_INDEX} from '../models/batchLoss.ts';
export type {LoadOptions, SaveOptions} from '../models/checkpoint.ts';
export type {ChatOptions, GenerateOptions} from '../models/generation/generate.ts';
export type {LlamaConfig, LlamaConfigArgs, LlamaPreset} from '../models/llama/config.ts';
export type {LoRAOptions} from '../models/peft/loraOptions.ts';
export type {QuantizationOptions} from '../models/quantization.ts';
export {type ChatMessage, Tokenizer} from '../models/tokenizer.ts';
export {type ErrorCode, TfjsLoraError} from '../quant/errors.ts';
export {setWarningHandler} from '../quant/warn.ts';
export {
  type BackendAttempt,
  type BackendName,
  type BackendOptions,
  type BackendReport,
  useBackend,
} from './backends/useBackend.ts';
export type {BatchOptions, TrainingData} from './data/batches.ts';
export {type CollateOptions, collate, type Example} from './data/collate.ts';
export {lengthGrouped} from './data/lengthGrouped.ts';
export {packSequences} from './data/preprocessing/packSequences.ts';
export {splitValidation} from './data/splitValidation.ts';
export {Llama} from './llama.ts';
export {type BleuScore, characterBleu, corpusBleu} from './metrics/bleu.ts';
export {meanRouge, type RougeOptions, type RougeScore, type RougeScores, rouge} from './metrics/rouge.ts';
export {AdamW, type AdamWArgs} from './optimizers/adamW.ts';
export {AdamW8bit, type AdamW8bitArgs} from './optimizers/adamW8bit.ts';
export {
  type DecoupledDecayArgs,
  DecoupledDecayOptimizer,
  type NamePattern,
} from './optimizers/decoupledDecayOptimizer.ts';
export {Lion, type LionArgs} from './optimizers/lion.ts';
export {Lion8bit, type Lion8bitArgs} from './optimizers/lion8bit.ts';
export {NamedStateOptimizer, type StateEntry} from './optimizers/namedStateOptimizer.ts';
export {type OptimizerName, type OptimizerSettings, optimizerByName} from './optimizers/optimizerByName.ts';
export {loadOptimizer, saveOptimizer} from './optimizers/optimizerFile.ts';
export {PagedAdamW, type PagedAdamWArgs} from './optimizers/pagedAdamW.ts';
export {PagedAdamW8bit, type PagedAdamW8bitArgs} from './optimizers/pagedAdamW8bit.ts';
export {PagedLion, type PagedLionArgs} from './optimizers/pagedLion.ts';
export {PagedLion8bit, type PagedLion8bitArgs} from './optimizers/pagedLion8bit.ts';
export {type PagedArgs, PagedStates} from './optimizers/pagedStates.ts';
export type {StateSlot, StateStore, StateValues, VariableState} from './optimizers/stateStore.ts';
export {UNDECAYED_BY_TRANSFORMERS} from './optimizers/undecayedByTransformers.ts';
export type {
  CallbackLike,
  EpochLogs,
  Evaluation,
  LogEntry,
  StepRecord,
  TrainingCallback,
} from './training/callbacks.ts';
export {clipByGlobalNorm} from './training/clipByGlobalNorm.ts';
export {
  type EstimableModel,
  type EstimateArgs,
  estimateMemory,
  type MemoryEstimate,
} from './training/estimateMemory.ts';
export type {Cadence, FitArgs, ReportTarget} from './training/fitArgs.ts';
export {
  type LearningRateSchedule,
  learningRateSchedule,
  type ScheduleArgs,
  type ScheduleName,
} from './training/learningRateSchedule.ts';
export {type ProgressStream, progressBar} from './training/progressBar.ts';
export type {TrainableModel} from './training/trainableModel.ts';
export {type EvaluateArgs, Trainer} from './training/trainer.ts';
export {TrainingHistory} from './training/trainingHistory.ts';
export {type CompileArgs, type StepResult, TrainingStep} from './training/trainingStep.ts';
export {type WindowGradients, windowGradients} from './training/windowGradients.ts';
