/**
 * `tfjs-lora`: what a fine-tuning script needs. What is around it are subpaths, such as `tfjs-lora/serve`; the floors below are
 * `tfjs-lora/models`, `/layers` and `/quant`.
 */
export * from './browser.ts';
export type {DataProgress, DatasetArgs} from './data/datasets/datasetArgs.ts';
export type {DatasetInfo} from './data/datasets/datasetInfo.ts';
export type {HubOptions, HubProgress} from './data/hub/hubOptions.ts';
export {type ExampleStream, loadDataset, loadSplits, type SplitArgs} from './data/loadDataset.ts';
