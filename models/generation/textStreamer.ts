import type {Tokenizer} from '../tokenizer.ts';

export interface TextStreamerOptions {
  /** Ids before the first pushed one, because some tokenizers decode a token differently at the start of a text. */
  promptIds?: readonly number[];
  /** Strings that end the text. It stops before the first of them that it would contain. */
  stopStrings?: readonly string[];
}

/**
 * Turns token ids into text as they arrive. The pieces add up to the whole text: a piece never ends inside a character,
 * and is never taken back. Special tokens are left out.
 */
export class TextStreamer {
  /** All text returned so far. */
  text = '';
  /** Whether a stop string was reached, after which there is no more text. */
  isStopped = false;

  /** Ids still needed for context, then ids whose text is not yet in `pending`. */
  private ids: number[];
  /** Number of context tokens in `ids`. */
  private contextLength: number;
  private contextText: string;
  /** Decoded text that may be the start of a stop string. */
  private pending = '';
  private readonly stopStrings: readonly string[];

  constructor(
    private readonly tokenizer: Tokenizer,
    {promptIds = [], stopStrings = []}: TextStreamerOptions = {},
  ) {
    this.stopStrings = stopStrings;
    this.ids = promptIds.filter((id) => !tokenizer.isSpecial(id));
    this.contextLength = this.ids.length;
    this.contextText = tokenizer.decode(this.ids);
  }

  /** Adds the next id. Returns the text that became certain, which may be empty. */
  push(id: number): string {
    if (this.isStopped || this.tokenizer.isSpecial(id)) return '';
    this.ids.push(id);
    const text = this.tokenizer.decode(this.ids);
    // Bytes of an unfinished character decode to U+FFFD: wait for the rest. A token without text gives no context.
    if (text.endsWith('\uFFFD') || text === this.contextText) return '';
    return this.take(text);
  }

  /** Returns the rest of the text. Call it after the last id. */
  end(): string {
    const piece = this.take(this.tokenizer.decode(this.ids));
    if (this.isStopped) return piece;
    const rest = this.pending;
    this.pending = '';
    this.text += rest;
    return piece + rest;
  }

  private take(text: string): string {
    this.pending += text.slice(commonLength(this.contextText, text));
    this.ids = this.ids.slice(this.contextLength);
    this.contextLength = this.ids.length;
    this.contextText = this.tokenizer.decode(this.ids);
    return this.release();
  }

  /** Moves the text that can no longer become part of a stop string from `pending` to `text`. */
  private release(): string {
    if (this.isStopped) return '';
    const stops = this.stopStrings.map((stop) => this.pending.indexOf(stop)).filter((at) => at >= 0);
    this.isStopped = stops.length > 0;
    const end = this.isStopped ? Math.min(...stops) : this.pending.length - this.heldBackLength();
    const piece = this.pending.slice(0, end);
    this.pending = this.isStopped ? '' : this.pending.slice(end);
    this.text += piece;
    return piece;
  }

  /** Returns the length of the longest end of `pending` that starts a stop string. */
  private heldBackLength(): number {
    let longest = 0;
    for (const stop of this.stopStrings) {
      for (let length = Math.min(stop.length - 1, this.pending.length); length > longest; length--) {
        if (this.pending.endsWith(stop.slice(0, length))) longest = length;
      }
    }
    return longest;
  }
}

function commonLength(a: string, b: string): number {
  let length = 0;
  while (length < a.length && a[length] === b[length]) length++;
  return length;
}
