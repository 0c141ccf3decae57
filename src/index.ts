/** `tfjs-lora`: LoRA fine-tuning of Llama on TensorFlow.js. The floors below are `tfjs-lora/models`, `/layers`, `/quant`. */

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
export type {LoRAOptions} from '../models/peft/adapterSet.ts';
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
export {type ChatEncoder, modelChatEncoder} from './chat/chatEncoder.ts';
export {ChatSession, type ChatSessionOptions} from './chat/chatSession.ts';
export type {BatchOptions, TrainingData} from './data/batches.ts';
export {type CollateOptions, collate, type Example} from './data/collate.ts';
export type {DataProgress, DatasetArgs} from './data/datasetArgs.ts';
export type {
  ColumnName,
  DatasetEntry,
  DatasetFormat,
  DatasetInfo,
  TagName,
} from './data/datasets/datasetInfo.ts';
export type {MixStrategy} from './data/datasets/mixDatasets.ts';
export {lengthGrouped} from './data/lengthGrouped.ts';
export {
  type ExampleStream,
  loadDataset,
  loadPrompts,
  loadSplits,
  type SplitArgs,
} from './data/loadDataset.ts';
export {packSequences} from './data/preprocessing/packSequences.ts';
export {splitValidation} from './data/splitValidation.ts';
export {
  type ConversationContext,
  encodePrompt,
  encodeTurns,
  templateStopIds,
} from './data/templates/encodeTurns.ts';
export type {Message, Role, Slot, Template, TemplateArgs} from './data/templates/template.ts';
export {
  getTemplate,
  type ResolvedTemplate,
  type ResolveTemplateOptions,
  registerTemplate,
  resolveTemplate,
  templateNames,
} from './data/templates/templateRegistry.ts';
export {
  type Candidate,
  type Comparison,
  compareModels,
  comparisonTable,
  parseCandidate,
} from './evaluation/compareModels.ts';
export {
  type Prediction,
  type PredictionProgress,
  type PredictionRun,
  type PredictOptions,
  type PromptExample,
  predictDataset,
} from './evaluation/predictDataset.ts';
export {formatScores, type PredictionScores, scorePredictions} from './evaluation/predictionScores.ts';
export {
  type HubOptions,
  type HubProgress,
  type HuggingFaceEnvironment,
  huggingFaceEnvironment,
} from './hub/hubOptions.ts';
export {resolveModelFolder} from './hub/resolveModelFolder.ts';
export {Llama} from './llama.ts';
export {type BleuScore, characterBleu, corpusBleu} from './metrics/bleu.ts';
export {type LlamaFactoryScores, llamaFactoryScores} from './metrics/llamaFactoryScores.ts';
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
export {type ComparedScores, type ComparisonPlotOptions, plotComparison} from './plots/comparisonPlot.ts';
export {type LossHistory, type LossPlotOptions, type LossPoint, plotLoss} from './plots/lossPlot.ts';
export {type ModelServer, type RequestReport, type ServeOptions, serveModel} from './serve/serveModel.ts';
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
