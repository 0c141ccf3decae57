/** Characters of a message that one value may take. */
const MAX_SHOWN = 150;

/** Levels of a value that are shown; deeper parts are left out. */
const MAX_DEPTH = 8;

/** Larger integers are not printed digit by digit, because that takes time quadratic in their length. */
const MAX_BIGINT = 2n ** 256n;

/** Characters that would move a terminal's cursor or reorder its text: C1 controls, line and direction marks. */
const UNSAFE = /[\u007f-\u009f\u2028-\u202e\u2066-\u2069]/g;

/**
 * Writes a value for a message: as JSON where JSON has a form for it, cut after 150 characters and 8 levels; a tensor
 * by its dtype and shape. Takes any value, even one that contains itself, has no primitive form or throws when it is
 * read, and never throws.
 */
export function show(value: unknown): string {
  const pieces: string[] = [];
  let room = MAX_SHOWN;
  const write = (text: string) => {
    pieces.push(text.length > room ? `${wholeCharacters(text, room)}…` : text);
    room -= text.length;
    return room >= 0;
  };
  try {
    writeValue(value, write, 0);
  } catch {
    write('a value that cannot be shown');
  }
  return pieces.join('');
}

/** Appends a piece to the text. Returns false when there is no room for more. */
type Write = (text: string) => boolean;

function writeValue(value: unknown, write: Write, depth: number): boolean {
  if (typeof value === 'string') return write(quoted(value));
  if (typeof value === 'number') return write(Object.is(value, -0) ? '-0' : String(value));
  if (typeof value === 'bigint') return write(showBigInt(value));
  if (typeof value === 'function') return write(`function ${quoted(String(value.name))}`);
  if (typeof value !== 'object' || value === null) return write(String(value));
  if (value instanceof RegExp || value instanceof URL) return write(String(value));
  if (value instanceof Date || value instanceof Error) return write(quoted(String(value)));
  if (isTensor(value)) return write(`tensor [${value.shape}] of ${String(value.dtype)}`);
  if (depth === MAX_DEPTH) return write('…');
  const items = itemsOf(value);
  if (items) return writeList(items, write, depth + 1);
  return writeEntries(value instanceof Map ? value : Object.entries(value), write, depth + 1);
}

function isTensor(value: object): value is {dtype: unknown; shape: unknown[]} {
  return 'dataId' in value && 'dtype' in value && 'shape' in value && Array.isArray(value.shape);
}

function itemsOf(value: object): Iterable<unknown> | undefined {
  if (Array.isArray(value) || value instanceof Set) return value;
  return ArrayBuffer.isView(value) && !(value instanceof DataView) ? (value as Uint8Array) : undefined;
}

function writeList(items: Iterable<unknown>, write: Write, depth: number): boolean {
  if (!write('[')) return false;
  let separator = '';
  for (const item of items) {
    if (!write(separator) || !writeValue(item, write, depth)) return false;
    separator = ',';
  }
  return write(']');
}

function writeEntries(entries: Iterable<[unknown, unknown]>, write: Write, depth: number): boolean {
  if (!write('{')) return false;
  let separator = '';
  for (const [key, item] of entries) {
    if (item === undefined) continue; // as in JSON
    if (!write(separator) || !writeValue(key, write, depth) || !write(':')) return false;
    if (!writeValue(item, write, depth)) return false;
    separator = ',';
  }
  return write('}');
}

function showBigInt(value: bigint): string {
  if (-MAX_BIGINT < value && value < MAX_BIGINT) return String(value);
  return value < 0n ? 'an integer below -2^256' : 'an integer above 2^256';
}

function quoted(text: string): string {
  const json = JSON.stringify(wholeCharacters(text, MAX_SHOWN + 1));
  return json.replace(UNSAFE, (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`);
}

/** Returns the first `length` units of a text, without half of a surrogate pair at the end. */
export function wholeCharacters(text: string, length: number): string {
  const start = text.slice(0, Math.max(length, 0));
  return start.length < text.length ? start.replace(/[\ud800-\udbff]$/, '') : start;
}
