/** `tfjs-lora` in a browser: everything except data sets, which need a disk. */

export type {MergeOptions} from '../layers/adaptedLayer.ts';
export {DEFAULT_ADAPTER} from '../layers/adapter.ts';
export type {CompileProgress} from '../layers/ops/backendTraits.ts';
export {compileShaders} from '../layers/ops/compileShaders.ts';
export type {QuantizationType} from '../layers/quantizationArgs.ts';
export {type Batch, IGNORE_INDEX} from '../models/batchLoss.ts';
export type {ChatOptions} from '../models/generation/generate.ts';
export type {GenerateOptions, GenerateProgress} from '../models/generation/generateOptions.ts';
export type {JsonSchema} from '../models/generation/json/jsonGrammar.ts';
export {loadAdapter, type SaveAdapterOptions, saveAdapter} from '../models/keras/adapterFolders.ts';
export {applyLoRA} from '../models/keras/applyLoRA.ts';
export {mergeLoRA} from '../models/keras/mergeLoRA.ts';
export {quantize} from '../models/keras/quantize.ts';
export type {LayerProgress, LayerWatch} from '../models/layerWatch.ts';
export type {LlamaConfig, LlamaConfigArgs} from '../models/llama/config.ts';
export type {LlamaPreset} from '../models/llama/resolveConfig.ts';
export type {LoadOptions} from '../models/loadPretrained.ts';
export type {MergeAdaptersOptions} from '../models/peft/adapterMerge.ts';
export type {AdaptedLayerStatus, AdapterStatus, AdaptersStatus} from '../models/peft/adapterStatus.ts';
export type {CombinationType, CombineAdaptersOptions} from '../models/peft/combineAdapters.ts';
export type {InitializeLoRAOptions} from '../models/peft/initialization/initializeLoRAOptions.ts';
export type {LoadAdapterOptions} from '../models/peft/loadAdapter.ts';
export type {LoRAOptions} from '../models/peft/loraOptions.ts';
export type {SaveAdapterFilesOptions} from '../models/peft/saveAdapter.ts';
export type {QuantizationOptions} from '../models/quantization.ts';
export type {SaveOptions, TensorProgress} from '../models/savePretrained.ts';
export {type ChatMessage, Tokenizer} from '../models/tokenizer.ts';
export {type ErrorCode, TfjsLoraError} from '../quant/errors.ts';
export {setWarningHandler} from '../quant/warn.ts';
export type {BatchOptions, TrainingData} from './data/batches/batches.ts';
export {
  type CollateOptions,
  collate,
  type Example,
  type PairExample,
  type VerdictExample,
} from './data/batches/collate.ts';
export {lengthGrouped} from './data/batches/lengthGrouped.ts';
export {splitValidation} from './data/datasets/splitValidation.ts';
export {packSequences} from './data/preprocessing/packSequences.ts';
export type {PromptExample} from './data/preprocessing/promptExample.ts';
export type {RecordDataset, Records} from './data/records/recordDataset.ts';
export type {RecordOptions} from './data/records/recordEncoder.ts';
export type {PromptRecord, RecordData, TrainingRecord} from './data/records/trainingRecord.ts';
export {AutoModelForCausalLM} from './training/autoModelForCausalLM.ts';
export {
  type BackendAttempt,
  type BackendName,
  type BackendOptions,
  type BackendReport,
  useBackend,
} from './training/backends/useBackend.ts';
export {progressBar} from './training/callbacks/progressBar.ts';
export {Gemma2, Gemma3, Mistral, Phi3, Qwen2, Qwen3, SmolLM3} from './training/families.ts';
export {Llama} from './training/llama.ts';
export {type GrpoLossArgs, type GrpoLossType, grpoLoss} from './training/losses/grpoLoss.ts';
export {type KtoLossArgs, ktoLoss} from './training/losses/ktoLoss.ts';
export {type LabelLossArgs, type LabelLossType, labelLoss} from './training/losses/labelLoss.ts';
export {
  type PpoLossArgs,
  ppoLoss,
  type RewardAdapter,
  type RewardModel,
  type RewardTexts,
} from './training/losses/ppoLoss.ts';
export {
  type PreferenceLossArgs,
  type PreferenceLossType,
  preferenceLoss,
} from './training/losses/preferenceLoss.ts';
export type {Reference, ReferenceModel} from './training/losses/reference.ts';
export type {RewardFunction} from './training/losses/rewardFunction.ts';
export {rewardLoss} from './training/losses/rewardLoss.ts';
export type {
  PromptBatch,
  Rollout,
  RolloutModel,
  RolloutOptions,
  RolloutPrompt,
  Rollouts,
  ScoredAnswers,
} from './training/losses/rollouts.ts';
export type {BatchLoss, LossModel, TrainingLoss} from './training/losses/trainingLoss.ts';
export {AdamW, type AdamWArgs} from './training/optimizers/adamW.ts';
export {AdamW8bit, type AdamW8bitArgs} from './training/optimizers/adamW8bit.ts';
export {UNDECAYED_BY_TRANSFORMERS} from './training/optimizers/decoupledDecayOptimizer.ts';
export {Lion, type LionArgs} from './training/optimizers/lion.ts';
export {Lion8bit, type Lion8bitArgs} from './training/optimizers/lion8bit.ts';
export {
  type MakeOptimizer,
  type OptimizerName,
  type OptimizerSettings,
  optimizerByName,
  optimizerNames,
  registerOptimizer,
} from './training/optimizers/optimizerByName.ts';
export {loadOptimizer, saveOptimizer} from './training/optimizers/optimizerFile.ts';
export {PagedAdamW, type PagedAdamWArgs} from './training/optimizers/pagedAdamW.ts';
export {PagedAdamW8bit, type PagedAdamW8bitArgs} from './training/optimizers/pagedAdamW8bit.ts';
export {PagedLion, type PagedLionArgs} from './training/optimizers/pagedLion.ts';
export {PagedLion8bit, type PagedLion8bitArgs} from './training/optimizers/pagedLion8bit.ts';
export type {AnswerMetric, AnswerOptions} from './training/prediction/answerScorer.ts';
export type {
  PredictionProgress,
  PredictionRun,
  PredictOptions,
} from './training/prediction/predictDataset.ts';
export type {Prediction, PredictionScores} from './training/prediction/predictionScores.ts';
export type {PredictionData} from './training/prediction/readPrompts.ts';
export type {ScoreOptions} from './training/prediction/scoreAnswers.ts';
export type {
  CallbackLike,
  EpochLogs,
  Evaluation,
  LogEntry,
  StepLog,
  TrainingCallback,
} from './training/run/callbacks.ts';
export {
  type EstimableModel,
  type EstimateArgs,
  estimateMemory,
  type MemoryEstimate,
} from './training/run/estimateMemory.ts';
export type {Cadence, FitArgs, ProgressStream, ReportTarget, SaveCadence} from './training/run/fitArgs.ts';
export {TrainingHistory} from './training/run/trainingHistory.ts';
export {clipByGlobalNorm} from './training/steps/clipByGlobalNorm.ts';
export {
  type LearningRateSchedule,
  learningRateSchedule,
  type ScheduleArgs,
  type ScheduleName,
} from './training/steps/learningRateSchedule.ts';
export type {TrainableModel} from './training/steps/trainableModel.ts';
export {type CompileArgs, type StepResult, TrainingStep} from './training/steps/trainingStep.ts';
export {type WindowGradients, windowGradients} from './training/steps/windowGradients.ts';
export {type Trainable, type TrainableCausalLM, type Training, trainable} from './training/trainable.ts';
export {type EvaluateArgs, Trainer} from './training/trainer.ts';
