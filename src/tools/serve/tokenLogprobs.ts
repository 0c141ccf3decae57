import {tokenBytes} from '../../../models/generation/json/tokenBytes.ts';
import type {GeneratedToken} from '../../../models/generation/row.ts';
import type {Tokenizer} from '../../../models/tokenizer.ts';
import type {TokenLogprob} from './completionResponse.ts';

/** Lists a token with its probability and alternatives in OpenAI's form; none for a special token, which has no text. */
export function tokenLogprobs(tokenizer: Tokenizer, token: GeneratedToken): TokenLogprob[] {
  const {id, logProbability, alternatives = []} = token;
  if (logProbability === undefined || tokenizer.isSpecial(id)) return [];
  const described = (each: number, logprob: number) => ({
    token: tokenizer.decode([each]),
    logprob,
    bytes: bytesOf(tokenizer, each),
  });
  return [
    {
      ...described(id, logProbability),
      top_logprobs: alternatives.map((other) => described(other.id, other.logProbability)),
    },
  ];
}

/** Returns a token's bytes: null for a special token, or if the tokenizer's tokens are not pieces of the text. */
function bytesOf(tokenizer: Tokenizer, id: number): number[] | null {
  try {
    const bytes = tokenBytes(tokenizer)[id];
    return bytes ? [...bytes] : null;
  } catch {
    return null;
  }
}
