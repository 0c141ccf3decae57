import {TfjsLoraError} from '../../../quant/errors.ts';
import type {Tokenizer} from '../../tokenizer.ts';

/** A decoder of a `tokenizer.json`. */
interface DecoderStep {
  type?: string;
  decoders?: DecoderStep[];
}

const known = new WeakMap<Tokenizer, (Uint8Array | undefined)[]>();

/**
 * Returns the bytes of each token of a vocabulary, by id; none for special tokens and unused ids.
 *
 * @throws TfjsLoraError `UNSUPPORTED` for a tokenizer whose tokens are not pieces of a text: WordPiece, Unigram without
 *   byte fallback
 */
export function tokenBytes(tokenizer: Tokenizer): (Uint8Array | undefined)[] {
  const made = known.get(tokenizer);
  if (made) return made;
  const decoder = tokenizer.files.tokenizer.decoder as DecoderStep | undefined;
  const types = (decoder?.decoders ?? [decoder]).map((step) => step?.type);
  const isByteLevel = types.includes('ByteLevel');
  if (!isByteLevel && !types.includes('ByteFallback')) {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      'jsonSchema: expected a tokenizer with the decoder ByteLevel or ByteFallback, whose tokens are pieces of the text, got ' +
        `${types.filter(Boolean).join(', ') || 'none'}. Leave jsonSchema out.`,
    );
  }
  const added = new Set(((tokenizer.files.tokenizer.added_tokens ?? []) as {id: number}[]).map(({id}) => id));
  const bytesOf = isByteLevel ? byteLevel : byteFallback;
  const bytes = Array.from({length: tokenizer.vocabSize}, (_, id) => {
    const token = tokenizer.isSpecial(id) ? undefined : tokenizer.idToToken(id);
    if (!token) return undefined;
    return added.has(id) ? new TextEncoder().encode(token) : bytesOf(token);
  });
  known.set(tokenizer, bytes);
  return bytes;
}

/** The character that GPT-2's vocabulary writes for each byte → the byte. */
const BYTES_OF_CHARACTERS = new Map<string, number>();
{
  const isPrintable = (byte: number) =>
    (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || (byte >= 174 && byte <= 255);
  let other = 256;
  for (let byte = 0; byte < 256; byte++)
    BYTES_OF_CHARACTERS.set(String.fromCharCode(isPrintable(byte) ? byte : other++), byte);
}

function byteLevel(token: string): Uint8Array | undefined {
  const bytes = [...token].map((character) => BYTES_OF_CHARACTERS.get(character));
  return bytes.includes(undefined) ? undefined : Uint8Array.from(bytes as number[]);
}

function byteFallback(token: string): Uint8Array {
  const [, code] = /^<0x([0-9A-F]{2})>$/.exec(token) ?? [];
  if (code !== undefined) return Uint8Array.of(Number.parseInt(code, 16));
  return new TextEncoder().encode(token.replaceAll('▁', ' '));
}
