import {TfjsLoraError} from './errors.ts';

/** Far above the largest tokenizer, and half of what one string can hold in Node. */
const MAX_BYTES = 2 ** 28;

/**
 * Decodes the bytes of a text file. A byte order mark at the beginning of the file is left out.
 *
 * @param where the file, for messages
 * @param start offset of the bytes in the file
 * @throws TfjsLoraError `CORRUPT_FILE` naming the first byte that is not UTF-8, or when there are more than 256 MiB
 */
export function decodeUtf8(bytes: Uint8Array, where: string, start = 0): string {
  if (bytes.length > MAX_BYTES) {
    throw new TfjsLoraError(
      'CORRUPT_FILE',
      `${where}: expected UTF-8 text, got ${bytes.length} bytes, more than ${MAX_BYTES}`,
    );
  }
  try {
    return new TextDecoder('utf-8', {fatal: true, ignoreBOM: start > 0}).decode(bytes);
  } catch (cause) {
    const at = firstInvalidByte(bytes);
    const got = `0x${bytes[at].toString(16).padStart(2, '0')}`;
    throw new TfjsLoraError(
      'CORRUPT_FILE',
      `${where} byte ${start + at}: expected UTF-8 text, got ${got}. Save the file as UTF-8.`,
      {cause},
    );
  }
}

/** Does what {@link decodeUtf8} does, for bytes that arrive in pieces, which may end within a character. */
export class Utf8Decoder {
  private rest: Uint8Array = new Uint8Array();

  constructor(
    private readonly where: string,
    private start = 0,
  ) {}

  decode(piece: Uint8Array): string {
    const bytes = new Uint8Array(this.rest.length + piece.length);
    bytes.set(this.rest);
    bytes.set(piece, this.rest.length);
    const end = lengthOfWholeCharacters(bytes);
    const text = decodeUtf8(bytes.subarray(0, end), this.where, this.start);
    this.rest = bytes.slice(end);
    this.start += end;
    return text;
  }

  /** @throws TfjsLoraError `CORRUPT_FILE` when the last character is cut off */
  end(): void {
    decodeUtf8(this.rest, this.where, this.start);
  }
}

/** Returns the number of bytes before a last character that the next piece may complete. */
function lengthOfWholeCharacters(bytes: Uint8Array): number {
  for (let back = 1; back <= Math.min(3, bytes.length); back++) {
    const byte = bytes[bytes.length - back];
    if ((byte & 0xc0) === 0x80) continue; // within a character
    const length = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc0 ? 2 : 1;
    return length > back ? bytes.length - back : bytes.length;
  }
  return bytes.length;
}

/** Returns the index of the first byte that begins no character. */
function firstInvalidByte(bytes: Uint8Array): number {
  let at = 0;
  for (let length = 1; length > 0; at += length) length = characterLength(bytes, at);
  return at;
}

/** Returns the length of the character at `at` in bytes, by table 3-7 of the Unicode standard; 0 when there is none. */
function characterLength(bytes: Uint8Array, at: number): number {
  const lead = bytes[at];
  if (lead < 0x80) return 1;
  const length = lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : lead < 0xf5 ? 4 : 0;
  const lowest = lead === 0xe0 ? 0xa0 : lead === 0xf0 ? 0x90 : 0x80;
  const highest = lead === 0xed ? 0x9f : lead === 0xf4 ? 0x8f : 0xbf;
  for (let i = 1; i < length; i++) {
    const byte = bytes[at + i]; // undefined past the end
    if (!(byte >= (i === 1 ? lowest : 0x80) && byte <= (i === 1 ? highest : 0xbf))) return 0;
  }
  return length;
}
