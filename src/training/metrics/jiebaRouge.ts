import type {WordCutter} from './jiebaWords.ts';
import {PYTHON_SPACES, TRAILING_PYTHON_SPACES} from './pythonText.ts';

/** F-measures, each from 0 to 1. */
export interface JiebaRouge {
  rouge1: number;
  rouge2: number;
  rougeL: number;
}

/**
 * Computes ROUGE as LLaMA-Factory does with the Python package rouge_chinese: of *distinct* n-grams of jieba's words,
 * and of the longest common subsequence of the whole text; F = 2pr / (p + r + 1e-8). A text without words scores 0.
 *
 * @param cut word cutter from `jiebaWords`
 */
export function jiebaRouge(prediction: string, reference: string, cut: WordCutter): JiebaRouge {
  const [words, target] = [prediction, reference].map((text) => rougeWords(cut(text).join(' ')));
  if (words === undefined || target === undefined) return {rouge1: 0, rouge2: 0, rougeL: 0};
  return {
    rouge1: distinctOverlap(words, target, 1),
    rouge2: distinctOverlap(words, target, 2),
    rougeL: fMeasure(commonLength(words, target), words.length, target.length),
  };
}

/**
 * Splits a text of space-separated words as rouge_chinese does: it splits sentences first, and a sentence of spaces
 * only becomes one empty word.
 *
 * @returns undefined for a text without words
 */
function rougeWords(text: string): string[] | undefined {
  if (splitWords(text).length === 0) return undefined;
  const lines = text
    .replace(/([。！？?])([^”’])/gu, '$1\n$2')
    .replace(/(\.{6})([^”’])/gu, '$1\n$2')
    .replace(/(…{2})([^”’])/gu, '$1\n$2')
    .replace(/([。！？?][”’])([^，。！？?])/gu, '$1\n$2')
    .replace(TRAILING_PYTHON_SPACES, '')
    .split('\n');
  return lines
    .filter((line) => line !== '')
    .flatMap((line) => {
      const words = splitWords(line);
      return words.length > 0 ? words : [''];
    });
}

function splitWords(text: string): string[] {
  return text.split(PYTHON_SPACES).filter((word) => word !== '');
}

function distinctOverlap(words: string[], target: string[], n: number): number {
  const [predicted, expected] = [words, target].map((list) => distinctNgrams(list, n));
  let common = 0;
  for (const ngram of predicted) if (expected.has(ngram)) common++;
  return fMeasure(common, predicted.size, expected.size);
}

function distinctNgrams(words: string[], n: number): Set<string> {
  const ngrams = new Set<string>();
  for (let i = 0; i + n <= words.length; i++) ngrams.add(words.slice(i, i + n).join(' '));
  return ngrams;
}

function fMeasure(common: number, predicted: number, expected: number): number {
  const precision = predicted === 0 ? 0 : common / predicted;
  const recall = expected === 0 ? 0 : common / expected;
  return 2 * ((precision * recall) / (precision + recall + 1e-8));
}

/** Returns the length of the longest common subsequence, keeping two rows of the table. */
function commonLength(words: string[], target: string[]): number {
  let above = new Uint32Array(target.length + 1);
  let row = new Uint32Array(target.length + 1);
  for (const word of words) {
    for (let j = 1; j <= target.length; j++) {
      row[j] = word === target[j - 1] ? above[j - 1] + 1 : Math.max(above[j], row[j - 1]);
    }
    [above, row] = [row, above];
  }
  return above[target.length];
}
