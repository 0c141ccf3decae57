/**
 * `tfjs-lora/evaluation`, in Node: answers a data set, scores the answers, and compares models by the scores.
 *
 * @module tfjs-lora/evaluation
 */
export {
  type Candidate,
  type Comparison,
  compareModels,
  comparisonTable,
  parseCandidate,
} from './compareModels.ts';
export {
  type PredictionProgress,
  type PredictionRun,
  type PredictOptions,
  type PromptExample,
  predictDataset,
} from './predictDataset.ts';
export {formatScores, type Prediction, type PredictionScores, scorePredictions} from './predictionScores.ts';
