/**
 * Plots, tables, tokens and progress as rich output of a notebook.
 *
 * @module tfjs-lora/notebook
 */
export type {Losses} from '../plots/lossPlot.ts';
export {notebookProgress} from './notebookProgress.ts';
export {RichOutput} from './richOutput.ts';
export {type LabeledRun, type ShowLossOptions, showLoss} from './showLoss.ts';
export {type SamplesOptions, showSamples} from './showSamples.ts';
export {showSummary} from './showSummary.ts';
export {showTable, type TableOptions, type TableRow} from './showTable.ts';
export {showTokens, type TokensOptions} from './showTokens.ts';
