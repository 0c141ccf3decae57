/** `tfjs-lora`: LoRA fine-tuning of Llama on TensorFlow.js. The floors below are `tfjs-lora/models`, `/layers`, `/quant`. */
export * from './browser.ts';
export type {DataProgress, DatasetArgs} from './data/datasets/datasetArgs.ts';
export type {
  ColumnName,
  DatasetEntry,
  DatasetFormat,
  DatasetInfo,
  TagName,
} from './data/datasets/datasetInfo.ts';
export type {MixStrategy} from './data/datasets/mixDatasets.ts';
export {
  type HubOptions,
  type HubProgress,
  type HuggingFaceEnvironment,
  huggingFaceEnvironment,
} from './data/hub/hubOptions.ts';
export {resolveModelFolder} from './data/hub/resolveModelFolder.ts';
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
export {type ChatEncoder, modelChatEncoder} from './tools/chat/chatEncoder.ts';
export {ChatSession, type ChatSessionOptions} from './tools/chat/chatSession.ts';
export {
  type Candidate,
  type Comparison,
  compareModels,
  comparisonTable,
  parseCandidate,
} from './tools/evaluation/compareModels.ts';
export {
  type Prediction,
  type PredictionProgress,
  type PredictionRun,
  type PredictOptions,
  type PromptExample,
  predictDataset,
} from './tools/evaluation/predictDataset.ts';
export {formatScores, type PredictionScores, scorePredictions} from './tools/evaluation/predictionScores.ts';
export {type LlamaFactoryScores, llamaFactoryScores} from './tools/metrics/llamaFactoryScores.ts';
export {
  type ModelServer,
  type RequestReport,
  type ServeOptions,
  serveModel,
} from './tools/serve/serveModel.ts';
export {
  type ComparedScores,
  type ComparisonPlotOptions,
  plotComparison,
} from './training/plots/comparisonPlot.ts';
export {type LossHistory, type LossPlotOptions, type LossPoint, plotLoss} from './training/plots/lossPlot.ts';
