/** `tfjs-lora`: LoRA fine-tuning of Llama on TensorFlow.js. The floors below are `tfjs-lora/models`, `/layers`, `/quant`. */
export {DEFAULT_ADAPTER, LoRADense, type LoRADenseArgs} from '../layers/loraDense.ts';
export {Dense, type DenseArgs} from '../layers/dense.ts';
export {type Batch, IGNORE_INDEX} from '../models/batchLoss.ts';
export type {LoadOptions, SaveOptions} from '../models/checkpoint.ts';
export type {ChatOptions, GenerateOptions} from '../models/generation/generate.ts';
export type {LlamaConfig, LlamaConfigArgs, LlamaPreset} from '../models/llama/config.ts';
export type {LoRAOptions} from '../models/peft/adapterSet.ts';
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
export {type BatchOptions, collate, type Example, type TrainingData} from './data/batches.ts';
export {Llama} from './llama.ts';
export {AdamW, type AdamWArgs} from './optimizers/adamW.ts';
export {NamedStateOptimizer} from './optimizers/namedStateOptimizer.ts';
export type {CallbackLike, Evaluation, StepRecord, TrainingCallback} from './training/callbacks.ts';
export {
  type LearningRateSchedule,
  learningRateSchedule,
  type ScheduleArgs,
  type ScheduleName,
} from './training/learningRateSchedule.ts';
export {type ProgressStream, progressBar} from './training/progressBar.ts';
export {type CompileArgs, type FitArgs, type StepResult, Trainer, type WindowGradients} from './training/trainer.ts';
export {TrainingHistory} from './training/trainingHistory.ts';
