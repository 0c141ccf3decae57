import {corpusBleu} from '../metrics/bleu.ts';
import {type LlamaFactoryScores, llamaFactoryScores} from '../metrics/llamaFactoryScores.ts';
import {meanRouge} from '../metrics/rouge.ts';

/** One line of `generated_predictions.jsonl`. */
export interface Prediction {
  prompt: string;
  predict: string;
  label: string;
}

/** Two families of scores that share names but not numbers, each from 0 to 100. */
export interface PredictionScores {
  /** BLEU-4 of characters and ROUGE of jieba's words, which LLaMA-Factory prints and its guides compare. */
  llamaFactory: LlamaFactoryScores;
  /** rouge_score's ROUGE with its stemmer, and sacreBLEU's corpus BLEU, which papers on English text report. */
  standard: {rouge1: number; rouge2: number; rougeL: number; rougeLsum: number; bleu: number};
}

/**
 * Scores predictions by both families of metrics.
 *
 * @throws TfjsLoraError as `llamaFactoryScores` does
 */
export async function scorePredictions(
  predictions: readonly Pick<Prediction, 'predict' | 'label'>[],
): Promise<PredictionScores> {
  const [texts, labels] = [predictions.map(({predict}) => predict), predictions.map(({label}) => label)];
  return {
    llamaFactory: await llamaFactoryScores(texts, labels),
    standard: {...meanRouge(texts, labels), bleu: corpusBleu(texts, labels).score},
  };
}

/** The names of {@link flatScores}. */
export const SCORE_NAMES: readonly string[] = [
  ...['bleu-4', 'rouge-1', 'rouge-2', 'rouge-l'],
  ...['rouge_score_rouge1', 'rouge_score_rouge2', 'rouge_score_rougeL', 'rouge_score_rougeLsum'],
  'sacrebleu',
];

/** Returns the scores under flat names that tell the families apart: `rouge-1` is LLaMA-Factory's. */
export function flatScores({llamaFactory, standard}: PredictionScores): Record<string, number> {
  const {bleu, ...rouge} = standard;
  return {
    ...llamaFactory,
    ...Object.fromEntries(Object.entries(rouge).map(([name, value]) => [`rouge_score_${name}`, value])),
    sacrebleu: bleu,
  };
}

/** Returns {@link flatScores} under their names in `predict_results.json`. */
export function scoreMetrics(scores: PredictionScores): Record<string, number> {
  return Object.fromEntries(
    Object.entries(flatScores(scores)).map(([name, value]) => [`predict_${name}`, value]),
  );
}

/** Formats the scores as a small table with both families side by side. */
export function formatScores({llamaFactory, standard}: PredictionScores): string {
  const rows = [
    ['', 'LLaMA-Factory', 'standard'],
    ['BLEU-4', llamaFactory['bleu-4'], standard.bleu],
    ['ROUGE-1', llamaFactory['rouge-1'], standard.rouge1],
    ['ROUGE-2', llamaFactory['rouge-2'], standard.rouge2],
    ['ROUGE-L', llamaFactory['rouge-l'], standard.rougeL],
    ['ROUGE-Lsum', '', standard.rougeLsum],
  ].map((row) => row.map((cell) => (typeof cell === 'number' ? cell.toFixed(4) : cell)));
  const lines = rows.map(([name, ours, english]) =>
    `${name.padEnd(10)}${ours.padStart(16)}${english.padStart(12)}`.trimEnd(),
  );
  return [
    ...lines,
    'LLaMA-Factory: BLEU of characters, ROUGE of jieba words. Standard: sacreBLEU, rouge_score with stemmer.',
  ].join('\n');
}
