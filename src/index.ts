/** `tfjs-lora`: LoRA fine-tuning of Llama on TensorFlow.js. The floors below are `tfjs-lora/models`, `/layers`, `/quant`. */
export * from './browser.ts';
export {type ChatEncoder, modelChatEncoder} from './chat/chatEncoder.ts';
export {ChatSession, type ChatSessionOptions} from './chat/chatSession.ts';
export type {DataProgress, DatasetArgs} from './data/datasetArgs.ts';
export type {
  ColumnName,
  DatasetEntry,
  DatasetFormat,
  DatasetInfo,
  TagName,
} from './data/datasets/datasetInfo.ts';
export type {MixStrategy} from './data/datasets/mixDatasets.ts';
export {
  type ExampleStream,
  loadDataset,
  loadPrompts,
  loadSplits,
  type SplitArgs,
} from './data/loadDataset.ts';
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
export {type LlamaFactoryScores, llamaFactoryScores} from './metrics/llamaFactoryScores.ts';
export {type ComparedScores, type ComparisonPlotOptions, plotComparison} from './plots/comparisonPlot.ts';
export {type LossHistory, type LossPlotOptions, type LossPoint, plotLoss} from './plots/lossPlot.ts';
export {type ModelServer, type RequestReport, type ServeOptions, serveModel} from './serve/serveModel.ts';
