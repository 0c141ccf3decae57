import {PYTHON_SPACES, TRAILING_PYTHON_SPACES} from './pythonText.ts';
import {assertPaired} from './rouge.ts';

/** BLEU (Papineni et al. 2002) of a corpus, with its parts. */
export interface BleuScore {
  /** BLEU, from 0 to 100. */
  score: number;
  /** Precisions of 1-, 2-, 3- and 4-grams, each from 0 to 100, smoothed if nothing matched. */
  precisions: number[];
  brevityPenalty: number;
  /** Number of words in the predictions. */
  predictionLength: number;
  /** Number of words in the references. */
  referenceLength: number;
}

const ORDERS = 4;

/**
 * Computes BLEU-4 of a corpus as sacreBLEU does: mteval's "13a" words with case, counts summed over the corpus before
 * dividing, and orders without a match counted as ½, ¼, … of a match ("exp" smoothing).
 *
 * @throws TfjsLoraError `INVALID_ARGUMENT` when there are no texts, or a different number of references
 */
export function corpusBleu(predictions: readonly string[], references: readonly string[]): BleuScore {
  assertPaired('corpusBleu', predictions, references);
  const matches = new Array<number>(ORDERS).fill(0);
  const totals = new Array<number>(ORDERS).fill(0);
  let predictionLength = 0;
  let referenceLength = 0;
  predictions.forEach((prediction, index) => {
    const words = bleuTokens(prediction);
    const target = bleuTokens(references[index]);
    predictionLength += words.length;
    referenceLength += target.length;
    for (let n = 1; n <= ORDERS; n++) {
      matches[n - 1] += matchingNgrams(words, target, n);
      totals[n - 1] += Math.max(words.length - n + 1, 0);
    }
  });
  const brevityPenalty = brevity(predictionLength, referenceLength);
  const result = {brevityPenalty, predictionLength, referenceLength};
  const precisions = new Array<number>(ORDERS).fill(0);
  if (matches.every((count) => count === 0)) return {score: 0, precisions, ...result};
  let smoothing = 1;
  for (let n = 0; n < ORDERS && totals[n] > 0; n++) {
    if (matches[n] === 0) smoothing *= 2;
    precisions[n] = (100 * (matches[n] || 1 / smoothing)) / totals[n];
  }
  return {score: brevityPenalty * geometricMean(precisions), precisions, ...result};
}

/**
 * Computes BLEU-4 of one text over its characters, with NLTK's smoothing "method3": the k-th order without a match
 * counts 1/2ᵏ. LLaMA-Factory averages it as `predict_bleu-4`.
 *
 * @returns 0 to 1; 0 when no character matches
 */
export function characterBleu(prediction: string, reference: string): number {
  const characters = [...prediction];
  const target = [...reference];
  let smoothing = 1;
  const precisions: number[] = [];
  for (let n = 1; n <= ORDERS; n++) {
    const matched = matchingNgrams(characters, target, n);
    if (matched === 0) {
      if (n === 1) return 0;
      smoothing *= 2;
    }
    precisions.push((matched || 1 / smoothing) / Math.max(characters.length - n + 1, 1));
  }
  return brevity(characters.length, target.length) * geometricMean(precisions);
}

/**
 * Splits a text into the words of mteval-v13a: punctuation is separate, except for periods and commas inside numbers,
 * and a dash is separate only after a digit.
 */
export function bleuTokens(text: string): string[] {
  let line = text
    .replace(TRAILING_PYTHON_SPACES, '')
    .replaceAll('<skipped>', '')
    .replaceAll('-\n', '')
    .replaceAll('\n', ' ')
    .replaceAll('&quot;', '"')
    .replaceAll('&amp;', '&')
    .replaceAll('&lt;', '<')
    .replaceAll('&gt;', '>');
  line = ` ${line} `
    .replace(/([{-~[-` -&(-+:-@/])/gu, ' $1 ')
    .replace(/([^0-9])([.,])/gu, '$1 $2 ')
    .replace(/([.,])([^0-9])/gu, ' $1 $2')
    .replace(/([0-9])(-)/gu, '$1 $2 ');
  return line.split(PYTHON_SPACES).filter((word) => word.length > 0);
}

function matchingNgrams(words: string[], target: string[], n: number): number {
  const counts = new Map<string, number>();
  for (let i = 0; i + n <= target.length; i++) {
    const ngram = target.slice(i, i + n).join('\u0000');
    counts.set(ngram, (counts.get(ngram) ?? 0) + 1);
  }
  let matched = 0;
  for (let i = 0; i + n <= words.length; i++) {
    const ngram = words.slice(i, i + n).join('\u0000');
    const left = counts.get(ngram) ?? 0;
    if (left === 0) continue;
    matched++;
    counts.set(ngram, left - 1);
  }
  return matched;
}

function brevity(predicted: number, expected: number): number {
  if (predicted >= expected) return 1;
  return predicted === 0 ? 0 : Math.exp(1 - expected / predicted);
}

/** Returns the geometric mean, which is 0 if any value is 0. */
function geometricMean(values: number[]): number {
  if (values.some((value) => value === 0)) return 0;
  return Math.exp(values.reduce((sum, value) => sum + Math.log(value), 0) / values.length);
}
