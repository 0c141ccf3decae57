/**
 * `tfjs-lora`: everything that a fine-tuning script needs. Other tools are subpaths, such as `tfjs-lora/serve`, and so
 * are the floors below: `tfjs-lora/models`, `/layers` and `/quant`.
 *
 * @module tfjs-lora
 */
export * from './browser.ts';
export type {DataProgress, DatasetArgs} from './data/datasets/datasetArgs.ts';
export type {DatasetInfo} from './data/datasets/datasetInfo.ts';
export type {HubOptions, HubProgress} from './data/hub/hubOptions.ts';
export {type ExampleStream, loadDataset, loadSplits, type SplitArgs} from './data/loadDataset.ts';
export {type JoinOptions, joinCluster} from './training/cluster/joinCluster.ts';
