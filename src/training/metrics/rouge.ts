import {TfjsLoraError} from '../../../quant/errors.ts';
import {assertKnownOptions, type OptionNames} from '../../../quant/knownOptions.ts';
import {show} from '../../../quant/show.ts';
import {porterStem} from './porterStemmer.ts';

/**
 * ROUGE (Lin 2004) with the same numbers as Google's `rouge_score`: words are lower-case runs of a-z and 0-9, counts
 * are clipped, and ROUGE-L and ROUGE-Lsum use longest common subsequences of the whole text and of its lines.
 */

export interface RougeScore {
  precision: number;
  recall: number;
  fmeasure: number;
}

/**
 * The scores that are usually reported. `rougeLsum` treats each line as a sentence; for one line it equals `rougeL`.
 */
export interface RougeScores {
  rouge1: RougeScore;
  rouge2: RougeScore;
  rougeL: RougeScore;
  rougeLsum: RougeScore;
}

export interface RougeOptions {
  /**
   * Whether to reduce words of more than three letters to their stems first. Default true, as in summarisation papers.
   */
  useStemmer?: boolean;
}
const ROUGE_OPTIONS = {
  useStemmer: true,
} satisfies OptionNames<RougeOptions>;

/** Computes ROUGE of one text against one reference. Each score is from 0 to 1; an empty text scores 0. */
export function rouge(prediction: string, reference: string, options: RougeOptions = {}): RougeScores {
  assertKnownOptions('rouge', options, ROUGE_OPTIONS);
  const {useStemmer = true} = options;
  if (typeof prediction !== 'string' || typeof reference !== 'string') {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `rouge: expected two texts, got ${show(prediction)} and ${show(reference)}. meanRouge takes lists.`,
    );
  }
  const target = rougeTokens(reference, useStemmer);
  const words = rougeTokens(prediction, useStemmer);
  const lines = (text: string): string[][] =>
    text
      .split('\n')
      .filter((line) => line.length > 0)
      .map((line) => rougeTokens(line, useStemmer));
  return {
    rouge1: ngramScore(words, target, 1),
    rouge2: ngramScore(words, target, 2),
    rougeL: score(commonLengths(target, words)[target.length][words.length], words.length, target.length),
    rougeLsum: summaryScore(lines(prediction), lines(reference)),
  };
}

/**
 * Computes the mean F-measures of many texts, times 100, as in tables.
 *
 * @throws TfjsLoraError `INVALID_ARGUMENT` when there are no texts, or a different number of references
 */
export function meanRouge(
  predictions: readonly string[],
  references: readonly string[],
  options?: RougeOptions,
): Record<keyof RougeScores, number> {
  assertPaired('meanRouge', predictions, references);
  const means = {rouge1: 0, rouge2: 0, rougeL: 0, rougeLsum: 0};
  predictions.forEach((prediction, index) => {
    const scores = rouge(prediction, references[index], options);
    for (const name of Object.keys(means) as (keyof RougeScores)[]) {
      means[name] += (100 * scores[name].fmeasure) / predictions.length;
    }
  });
  return means;
}

/** Splits a text into the words that ROUGE compares. */
export function rougeTokens(text: string, useStemmer = true): string[] {
  const words = text.toLowerCase().match(/[a-z0-9]+/g) ?? [];
  return useStemmer ? words.map((word) => (word.length > 3 ? porterStem(word) : word)) : words;
}

/** Checks that predictions and references are lists of texts, as many of one as of the other, and at least one. */
export function assertPaired(
  where: string,
  predictions: readonly string[],
  references: readonly string[],
): void {
  for (const [name, texts] of Object.entries({predictions, references})) {
    const isList = Array.isArray(texts);
    const at = isList ? texts.findIndex((text) => typeof text !== 'string') : 0;
    if (at < 0) continue;
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `${where} ${name}: expected a list of texts, got ${show(isList ? [texts[at]] : texts)}. ` +
        'Put a single text into a list; each prediction has one reference.',
    );
  }
  if (predictions.length > 0 && predictions.length === references.length) return;
  throw new TfjsLoraError(
    'INVALID_ARGUMENT',
    `${where} references: expected one for each prediction and at least one, ` +
      `got ${references.length} for ${predictions.length}.`,
  );
}

function score(hits: number, predicted: number, expected: number): RougeScore {
  const precision = hits / Math.max(predicted, 1);
  const recall = hits / Math.max(expected, 1);
  const sum = precision + recall;
  return {precision, recall, fmeasure: sum > 0 ? (2 * precision * recall) / sum : 0};
}

function countNgrams(words: string[], n: number): Map<string, number> {
  const counts = new Map<string, number>();
  for (let i = 0; i + n <= words.length; i++) {
    const ngram = words.slice(i, i + n).join(' ');
    counts.set(ngram, (counts.get(ngram) ?? 0) + 1);
  }
  return counts;
}

function ngramScore(words: string[], target: string[], n: number): RougeScore {
  const counts = countNgrams(words, n);
  let hits = 0;
  for (const [ngram, count] of countNgrams(target, n)) hits += Math.min(count, counts.get(ngram) ?? 0);
  return score(hits, Math.max(words.length - n + 1, 0), Math.max(target.length - n + 1, 0));
}

/** Returns a table whose `[i][j]` is the length of the longest common subsequence of the first i and first j words. */
function commonLengths(target: string[], words: string[]): Uint32Array[] {
  const table = Array.from({length: target.length + 1}, () => new Uint32Array(words.length + 1));
  for (let i = 1; i <= target.length; i++) {
    for (let j = 1; j <= words.length; j++) {
      table[i][j] =
        target[i - 1] === words[j - 1] ? table[i - 1][j - 1] + 1 : Math.max(table[i - 1][j], table[i][j - 1]);
    }
  }
  return table;
}

/** Returns the positions in `target` of a longest common subsequence, the one that rouge_score finds. */
function commonPlaces(target: string[], words: string[]): number[] {
  const table = commonLengths(target, words);
  const places: number[] = [];
  let [i, j] = [target.length, words.length];
  while (i > 0 && j > 0) {
    if (target[i - 1] === words[j - 1]) {
      places.push(i - 1);
      i--;
      j--;
    } else if (table[i][j - 1] > table[i - 1][j]) j--;
    else i--;
  }
  return places;
}

/**
 * Computes ROUGE-Lsum: for each line of the reference, the union of its common subsequences with all lines of the text.
 * A word counts as often as both sides contain it.
 */
function summaryScore(lines: string[][], targets: string[][]): RougeScore {
  const available = countNgrams(lines.flat(), 1);
  const wanted = countNgrams(targets.flat(), 1);
  let hits = 0;
  for (const target of targets) {
    const places = new Set(lines.flatMap((line) => commonPlaces(target, line)));
    for (const place of [...places].sort((a, b) => a - b)) {
      const word = target[place];
      const left = available.get(word) ?? 0;
      const asked = wanted.get(word) ?? 0;
      if (left === 0 || asked === 0) continue;
      hits++;
      available.set(word, left - 1);
      wanted.set(word, asked - 1);
    }
  }
  return score(hits, lines.flat().length, targets.flat().length);
}
