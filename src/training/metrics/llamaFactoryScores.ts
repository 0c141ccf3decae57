import {characterBleu} from './bleu.ts';
import {jiebaRouge} from './jiebaRouge.ts';
import {jiebaWords} from './jiebaWords.ts';
import {roundTo4} from './pythonText.ts';
import {assertPaired} from './rouge.ts';

/** LLaMA-Factory's metrics under its names, each from 0 to 100. */
export interface LlamaFactoryScores {
  'bleu-4': number;
  'rouge-1': number;
  'rouge-2': number;
  'rouge-l': number;
}

/**
 * Computes the scores that LLaMA-Factory prints as `predict_bleu-4` and `predict_rouge-1/2/l`: BLEU-4 of characters
 * (`characterBleu`) and ROUGE of jieba's words (`jiebaRouge`) for each text, times 100 and rounded to 4 places, and
 * then their means. These numbers differ from the English ones (`meanRouge`, `corpusBleu`).
 *
 * @throws TfjsLoraError `INVALID_ARGUMENT` when there are no texts, or a different number of references; `UNSUPPORTED`
 *   for Chinese text without `@node-rs/jieba`
 * @example
 * ```ts
 * import {llamaFactoryScores} from 'tfjs-lora/metrics';
 *
 * const scores = await llamaFactoryScores(['the cat sat'], ['the cat sat down']);
 * console.log(scores['bleu-4'], scores['rouge-l']);
 * ```
 */
export async function llamaFactoryScores(
  predictions: readonly string[],
  references: readonly string[],
): Promise<LlamaFactoryScores> {
  assertPaired('llamaFactoryScores', predictions, references);
  const cut = await jiebaWords([...predictions, ...references]);
  const sums = {'bleu-4': 0, 'rouge-1': 0, 'rouge-2': 0, 'rouge-l': 0};
  predictions.forEach((prediction, index) => {
    const reference = references[index];
    const {rouge1, rouge2, rougeL} = jiebaRouge(prediction, reference, cut);
    sums['bleu-4'] += roundTo4(100 * characterBleu(prediction, reference));
    sums['rouge-1'] += roundTo4(100 * rouge1);
    sums['rouge-2'] += roundTo4(100 * rouge2);
    sums['rouge-l'] += roundTo4(100 * rougeL);
  });
  for (const name of Object.keys(sums) as (keyof LlamaFactoryScores)[]) sums[name] /= predictions.length;
  return sums;
}
