/**
 * `tfjs-lora/evaluation`, in Node: answers a data set, scores the answers, and compares models by the scores.
 *
 * @module tfjs-lora/evaluation
 */
export type {PromptExample} from '../../data/preprocessing/promptExample.ts';
export {
  type PredictionProgress,
  type PredictionRun,
  type PredictOptions,
  predictDataset,
} from '../../training/prediction/predictDataset.ts';
export {
  formatScores,
  type Prediction,
  type PredictionScores,
  scorePredictions,
} from '../../training/prediction/predictionScores.ts';
export {
  type Candidate,
  type Comparison,
  compareModels,
  comparisonTable,
  parseCandidate,
} from './compareModels.ts';
export {type BenchmarkQuestion, type BenchmarkSubject, loadBenchmark} from './loadBenchmark.ts';
export {
  type BenchmarkLanguage,
  type BenchmarkOptions,
  type BenchmarkResult,
  formatBenchmark,
  scoreBenchmark,
} from './scoreBenchmark.ts';
