import {TfjsLoraError} from '../../quant/errors.ts';
import {show} from '../../quant/show.ts';

/**
 * Returns a score for each token with which sentencepiece's BPE, which joins the two neighbours whose whole has the
 * highest score, merges in the order of a list of pairs: minus the place of the first pair that makes the token. Tokens
 * that no pair makes come last.
 *
 * @param added tokens that are found in a text before any merge
 * @throws TfjsLoraError `UNSUPPORTED` when pairs that make the same token are not next to each other, because scores
 *   cannot say that
 */
export function mergeScores(
  tokens: readonly string[],
  merges: readonly (readonly [string, string])[],
  added: ReadonlySet<string>,
): number[] {
  const places = new Map<string, number>();
  let last: string | undefined;
  for (const [place, [left, right]] of merges.entries()) {
    const whole = left + right;
    if (!places.has(whole)) places.set(whole, place);
    else if (whole !== last && !added.has(whole)) {
      throw new TfjsLoraError(
        'UNSUPPORTED',
        `saveGguf tokenizer.json model.merges[${place}]: expected all merges that make ${show(whole)} one after the ` +
          "other, as sentencepiece orders them, got others between. llama.cpp's tokenizer would merge in another order.",
      );
    }
    last = whole;
  }
  return tokens.map((token) => -(places.get(token) ?? merges.length));
}
