/**
 * `tfjs-lora/plots`, in Node: loss curves and comparisons as SVG and PNG.
 *
 * @module tfjs-lora/plots
 */
export {type ComparedScores, type ComparisonPlotOptions, plotComparison} from './comparisonPlot.ts';
export {type LabeledLosses, type LossesPlotOptions, plotLosses} from './lossesPlot.ts';
export {type Losses, type LossHistory, type LossPlotOptions, type LossPoint, plotLoss} from './lossPlot.ts';
export {assertCanPlot} from './renderPlot.ts';
