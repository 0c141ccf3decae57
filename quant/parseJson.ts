import {show} from './show.ts';

/** Deeper than any config, header or request needs. */
const MAX_DEPTH = 64;

/** More values than any tokenizer or request has, or half a million tensors. More take the parser many seconds. */
const MAX_VALUES = 5_000_000;

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const COLON = 0x3a;
const COMMA = 0x2c;
const OPEN_BRACE = 0x7b;
const CLOSE_BRACE = 0x7d;
const OPEN_BRACKET = 0x5b;
const CLOSE_BRACKET = 0x5d;

/**
 * Parses JSON from an untrusted source. Nesting deeper than 64 is refused before it can exhaust the stack of whatever
 * walks over the value, and more than five million values before they fill the memory. When a key occurs twice, its
 * last value wins, as in Python.
 *
 * A key `__proto__` becomes a plain property, as with `JSON.parse`. Look up names from the file with `Object.hasOwn` or
 * in a `Map`: `constructor` and the like are names too.
 *
 * @throws SyntaxError saying what is wrong and where
 */
export function parseJson(text: string): unknown {
  assertBounded(text);
  return JSON.parse(text);
}

/**
 * Does what {@link parseJson} does, and also refuses the same key twice in one object, which safetensors forbids.
 *
 * @throws SyntaxError saying what is wrong and where
 */
export function parseStrictJson(text: string): unknown {
  const value = parseJson(text);
  assertUniqueKeys(text);
  return value;
}

function assertBounded(text: string): void {
  let depth = 0;
  let values = 1;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code === QUOTE) i = endOfString(text, i);
    else if (code === OPEN_BRACE || code === OPEN_BRACKET) depth++;
    else if (code === CLOSE_BRACE || code === CLOSE_BRACKET) depth--;
    else if (code === COMMA) values++;
    if (values > MAX_VALUES) throw new SyntaxError(`more than ${MAX_VALUES} values, at character ${i}`);
    if (depth > MAX_DEPTH) throw new SyntaxError(`nesting deeper than ${MAX_DEPTH} at character ${i}`);
  }
}

/** @param text valid JSON: `JSON.parse` has accepted it */
function assertUniqueKeys(text: string): void {
  const open: Set<string>[] = [];
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code === OPEN_BRACE) open.push(new Set());
    else if (code === CLOSE_BRACE) open.pop();
    else if (code === QUOTE) {
      const start = i;
      i = endOfString(text, i);
      if (!isFollowedByColon(text, i + 1)) continue; // a value, not a key
      const quoted = text.slice(start, i + 1);
      const key: string = quoted.includes('\\') ? JSON.parse(quoted) : quoted.slice(1, -1);
      const keys = open[open.length - 1];
      if (keys.has(key)) {
        throw new SyntaxError(`key ${show(key)} twice, again at character ${start}`);
      }
      keys.add(key);
    }
  }
}

/** Returns the index of the quote that closes the string opened at `start`, or the text's length when none does. */
function endOfString(text: string, start: number): number {
  let i = start + 1;
  while (i < text.length && text.charCodeAt(i) !== QUOTE) i += text.charCodeAt(i) === BACKSLASH ? 2 : 1;
  return i;
}

function isFollowedByColon(text: string, start: number): boolean {
  let i = start;
  while (' \t\n\r'.includes(text.charAt(i)) && i < text.length) i++;
  return text.charCodeAt(i) === COLON;
}
