/** `tfjs-lora/evaluation`, in Node: answers to a data set, their scores, and models compared by them. */
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
