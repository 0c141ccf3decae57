/** Deeper than any header or index needs; bounds what a hostile file makes the parser hold. */
const MAX_DEPTH = 64;

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const COLON = 0x3a;
const OPEN_BRACE = 0x7b;
const CLOSE_BRACE = 0x7d;
const OPEN_BRACKET = 0x5b;
const CLOSE_BRACKET = 0x5d;

/**
 * `JSON.parse` that also refuses what it lets pass: the same key twice in one object (the last would silently win)
 * and nesting deeper than 64.
 *
 * @throws SyntaxError saying what is wrong and where
 */
export function parseStrictJson(text: string): unknown {
  assertShallow(text);
  const value: unknown = JSON.parse(text);
  assertUniqueKeys(text);
  return value;
}

function assertShallow(text: string): void {
  let depth = 0;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code === QUOTE) i = endOfString(text, i);
    else if (code === OPEN_BRACE || code === OPEN_BRACKET) depth++;
    else if (code === CLOSE_BRACE || code === CLOSE_BRACKET) depth--;
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
      const key: string = JSON.parse(text.slice(start, i + 1));
      const keys = open[open.length - 1];
      if (keys.has(key)) {
        throw new SyntaxError(`key ${JSON.stringify(key.slice(0, 200))} twice, again at character ${start}`);
      }
      keys.add(key);
    }
  }
}

/** Index of the quote that closes the string opened at `start`, or the text's length when none does. */
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
