/**
 * `tfjs-lora/data`, in Node: data sets in LLaMA-Factory's formats, templates, and Hugging Face's hub.
 *
 * @module tfjs-lora/data
 */
export type {BatchOptions, TrainingData} from './batches/batches.ts';
export {type CollateOptions, collate, type Example} from './batches/collate.ts';
export {lengthGrouped} from './batches/lengthGrouped.ts';
export type {DataProgress, DatasetArgs} from './datasets/datasetArgs.ts';
export type {DatasetEntry, DatasetInfo} from './datasets/datasetInfo.ts';
export type {MixStrategy} from './datasets/mixDatasets.ts';
export type {ColumnName, DatasetFormat, TagName} from './datasets/recordFormat.ts';
export {splitValidation} from './datasets/splitValidation.ts';
export {
  type HubOptions,
  type HubProgress,
  type HuggingFaceEnvironment,
  huggingFaceEnvironment,
} from './hub/hubOptions.ts';
export {resolveModelFolder} from './hub/resolveModelFolder.ts';
export {
  type ExampleStream,
  loadDataset,
  loadPrompts,
  loadSplits,
  type SplitArgs,
} from './loadDataset.ts';
export {packSequences} from './preprocessing/packSequences.ts';
export {
  type ConversationContext,
  encodePrompt,
  encodeTurns,
  templateStopIds,
} from './templates/encodeTurns.ts';
export type {Message, Role, Slot, Template, TemplateArgs} from './templates/template.ts';
export {
  getTemplate,
  type ResolvedTemplate,
  type ResolveTemplateOptions,
  registerTemplate,
  resolveTemplate,
  templateNames,
} from './templates/templateRegistry.ts';
