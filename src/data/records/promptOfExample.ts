import {IGNORE_INDEX} from '../../../models/ignoreIndex.ts';
import type {Tokenizer} from '../../../models/tokenizer.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import type {Example} from '../batches/collate.ts';
import {type PromptExample, promptExample} from '../preprocessing/promptExample.ts';

/**
 * Makes a prompt of an example: its last learned stretch of tokens is the answer, and everything before it the prompt.
 * Masked tokens are left out.
 *
 * @param place of the example, for messages
 * @throws TfjsLoraError `INVALID_ARGUMENT` when no prompt precedes the answer; `UNSUPPORTED` for packed sequences
 */
export function promptOfExample(example: Example, place: string, tokenizer: Tokenizer): PromptExample {
  const {inputIds, labels = inputIds, attentionMask} = example;
  if (attentionMask?.some((value) => value > 1)) {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `${place} attentionMask: expected 0 and 1, got packed sequences. Pass them one by one.`,
    );
  }
  const isLearned = (t: number) => labels[t] !== IGNORE_INDEX && attentionMask?.[t] !== 0;
  let end = inputIds.length;
  while (end > 0 && !isLearned(end - 1)) end--;
  let start = end;
  while (start > 0 && isLearned(start - 1)) start--;
  if (start === 0) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `${place} labels: expected ${IGNORE_INDEX} for the tokens of a prompt, and an answer after them, got ` +
        `${end === 0 ? 'no answer' : 'no prompt'}. Pass prompts as {promptIds, prompt, label}, or records of text.`,
    );
  }
  const isReal = (_: number, t: number) => attentionMask?.[t] !== 0;
  return promptExample(
    {inputIds: inputIds.slice(0, start).filter(isReal), labels: labels.slice(start, end)},
    tokenizer,
  );
}
