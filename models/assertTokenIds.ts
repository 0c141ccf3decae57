import {TfjsLoraError} from '../quant/errors.ts';
import {show} from '../quant/show.ts';

/** Unused ids that a vocabulary may have. Some have gaps, and the table of tokens is as long as the largest id. */
const MAX_GAPS = 1_000_000;

/**
 * Checks that the ids of a `tokenizer.json` are valid and not far apart, because they become a table as long as the
 * largest of them.
 *
 * @param vocab vocabulary of the tokenizer's model: an object of ids, or Unigram's list of pieces and scores
 * @param path the file, for messages
 * @throws TfjsLoraError `CORRUPT_FILE` naming the token
 */
export function assertTokenIds(vocab: object, addedTokens: unknown, path: string): void {
  const added = Array.isArray(addedTokens) ? addedTokens : [];
  const ids = Array.isArray(vocab) ? [] : Object.entries(vocab);
  const count = (Array.isArray(vocab) ? vocab.length : ids.length) + added.length;
  const most = count + MAX_GAPS;
  const assertId = (token: unknown, id: unknown, where: string) => {
    if (Number.isInteger(id) && (id as number) >= 0 && (id as number) < most) return;
    throw new TfjsLoraError(
      'CORRUPT_FILE',
      `${path} ${where} ${show(token)}: expected an id from 0 to ${most - 1} (${count} tokens), got ${show(id)}`,
    );
  };
  for (const [token, id] of ids) assertId(token, id, 'model.vocab');
  for (const token of added) {
    if (typeof token !== 'object' || token === null || typeof token.content !== 'string') {
      throw new TfjsLoraError(
        'CORRUPT_FILE',
        `${path} added_tokens: expected tokens with a content and an id, got ${show(token)}`,
      );
    }
    assertId(token.content, token.id, 'added_tokens');
  }
}
