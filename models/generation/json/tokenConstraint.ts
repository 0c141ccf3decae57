import {TfjsLoraError} from '../../../quant/errors.ts';
import type {Tokenizer} from '../../tokenizer.ts';
import {type AutomatonState, ByteAutomaton} from './byteAutomaton.ts';
import {type JsonSchema, jsonGrammar} from './jsonGrammar.ts';
import {tokenBytes} from './tokenBytes.ts';

/** A vocabulary in the order of its tokens' bytes, so that tokens with a common beginning are neighbours. */
interface SortedVocabulary {
  ids: number[];
  bytes: Uint8Array[];
  /** Number of bytes at the beginning that a token has in common with the one before it. */
  common: number[];
  byId: (Uint8Array | undefined)[];
}

const vocabularies = new WeakMap<Tokenizer, SortedVocabulary>();

/**
 * The tokens that an answer may have to become JSON that is valid against a schema. It is made once for a generation;
 * each sequence follows its own {@link AutomatonState} from `start` on.
 */
export class TokenConstraint {
  readonly start: AutomatonState;
  private readonly automaton: ByteAutomaton;
  private readonly vocabulary: SortedVocabulary;
  private readonly allowed = new WeakMap<AutomatonState, number[]>();

  /** @throws TfjsLoraError `UNSUPPORTED` for a tokenizer or a keyword, `INVALID_ARGUMENT` for a wrong schema */
  constructor(schema: JsonSchema, tokenizer: Tokenizer) {
    this.automaton = new ByteAutomaton(jsonGrammar(schema));
    this.vocabulary = sortedVocabulary(tokenizer);
    this.start = this.automaton.start;
    if (this.start.isComplete || this.allowedIds(this.start).length > 0) return;
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      'jsonSchema: expected a schema that some value fits, got one that none fits',
    );
  }

  /** Returns the ids of the tokens that may come next, without those that end the answer. */
  allowedIds(state: AutomatonState): readonly number[] {
    let ids = this.allowed.get(state);
    if (!ids) {
      ids = this.findAllowed(state);
      this.allowed.set(state, ids);
    }
    return ids;
  }

  /** Whether nothing can come any more, except an end token. */
  isOver(state: AutomatonState): boolean {
    return state.isComplete && this.allowedIds(state).length === 0;
  }

  /**
   * Excludes the logits of all tokens that may not come next. An end token may come where the JSON is complete.
   *
   * @throws TfjsLoraError `UNSUPPORTED` when the vocabulary has no token that may come
   */
  mask(scores: Float32Array, state: AutomatonState, eosTokenIds: readonly number[]): void {
    const kept = [...this.allowedIds(state), ...(state.isComplete ? eosTokenIds : [])];
    if (kept.length === 0) {
      throw new TfjsLoraError(
        'UNSUPPORTED',
        'jsonSchema: expected a vocabulary with every byte, got one that cannot continue',
      );
    }
    const values = kept.map((id) => scores[id]);
    scores.fill(-Infinity);
    for (const [index, id] of kept.entries()) scores[id] = values[index];
  }

  /** Returns the state after a token. An end token changes nothing. */
  after(state: AutomatonState, id: number): AutomatonState {
    let reached: AutomatonState | null = state;
    for (const byte of this.vocabulary.byId[id] ?? [])
      reached = reached && this.automaton.step(reached, byte);
    return reached ?? state;
  }

  private findAllowed(start: AutomatonState): number[] {
    const {ids, bytes, common} = this.vocabulary;
    const found: number[] = [];
    // The states after each byte of the current token; those of the beginning it shares with the token before stay.
    const states: (AutomatonState | null)[] = [start];
    let reached = 0; // number of bytes until the text could not continue
    for (let index = 0; index < ids.length; index++) {
      const token = bytes[index];
      if (common[index] > reached) continue; // fails as the token before did
      let at = Math.min(common[index], reached);
      while (at < token.length) {
        const next = this.automaton.step(states[at] as AutomatonState, token[at]);
        if (next === null) break;
        states[++at] = next;
      }
      reached = at;
      if (at === token.length) found.push(ids[index]);
    }
    return found;
  }
}

function sortedVocabulary(tokenizer: Tokenizer): SortedVocabulary {
  const known = vocabularies.get(tokenizer);
  if (known) return known;
  const byId = tokenBytes(tokenizer);
  const sorted = [...byId.entries()]
    .filter((entry): entry is [number, Uint8Array] => entry[1] !== undefined && entry[1].length > 0)
    .sort(([, a], [, b]) => compareBytes(a, b));
  const bytes = sorted.map(([, each]) => each);
  const vocabulary = {
    ids: sorted.map(([id]) => id),
    bytes,
    common: bytes.map((each, index) => (index === 0 ? 0 : commonLength(bytes[index - 1], each))),
    byId,
  };
  vocabularies.set(tokenizer, vocabulary);
  return vocabulary;
}

function compareBytes(a: Uint8Array, b: Uint8Array): number {
  const at = commonLength(a, b);
  return (a[at] ?? -1) - (b[at] ?? -1);
}

function commonLength(a: Uint8Array, b: Uint8Array): number {
  let length = 0;
  while (length < a.length && length < b.length && a[length] === b[length]) length++;
  return length;
}
