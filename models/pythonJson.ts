import {entriesOf, objectOf, PythonFloat, wholeText} from './pythonValue.ts';

/** Maximum nesting of lists and objects. */
export const MAX_JSON_DEPTH = 512;

/** Maximum number of values, more than any record has. This many objects take some 300 MB. */
const MAX_VALUES = 5_000_000;

/** Maximum number of an integer's digits; this is Python's own limit. */
const MAX_DIGITS = 4300;

export interface ParsePythonJsonOptions {
  /** Whether strings may contain line breaks and other control characters unescaped. Default false, as in JSON. */
  controlCharacters?: boolean;
}

/**
 * Parses JSON as Python's `json.loads` does: with `NaN`, `Infinity` and integers of any size (a bigint beyond 2^53),
 * floats as {@link PythonFloat}, and keys in their order.
 *
 * @throws SyntaxError naming the character, from 0
 */
export function parsePythonJson(text: string, options: ParsePythonJsonOptions = {}): unknown {
  return new JsonReader(text, options).read();
}

const SPACE = /[ \t\n\r]*/y;
const NUMBER = /-?(?:0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?/y;
const CONSTANT = /null|true|false|NaN|-?Infinity/y;
const PLAIN = /[^"\\\u0000-\u001f]*/y;
const PLAIN_OR_CONTROL = /[^"\\]*/y;
const ESCAPE = /\\(?:(["\\/bfnrt])|u([0-9a-fA-F]{4}))/y;

const CONSTANTS: Record<string, unknown> = {
  null: null,
  true: true,
  false: false,
  NaN: new PythonFloat(Number.NaN),
  Infinity: new PythonFloat(Number.POSITIVE_INFINITY),
  '-Infinity': new PythonFloat(Number.NEGATIVE_INFINITY),
};

const ESCAPED: Record<string, string> = {b: '\b', f: '\f', n: '\n', r: '\r', t: '\t'};

class JsonReader {
  private at = 0;
  private depth = 0;
  private values = 0;
  private readonly plain: RegExp;

  constructor(
    private readonly text: string,
    {controlCharacters = false}: ParsePythonJsonOptions,
  ) {
    this.plain = controlCharacters ? PLAIN_OR_CONTROL : PLAIN;
  }

  read(): unknown {
    const value = this.value();
    if (this.at < this.text.length) throw this.unexpected('nothing more');
    return value;
  }

  /** Reads a value and the space around it. */
  private value(): unknown {
    this.match(SPACE);
    const value = this.bareValue();
    this.match(SPACE);
    return value;
  }

  private bareValue(): unknown {
    if (++this.values > MAX_VALUES) throw this.unexpected(`at most ${MAX_VALUES} values`);
    switch (this.text[this.at]) {
      case '{':
        return objectOf(this.items('}', () => this.entry()));
      case '[':
        return this.items(']', () => this.value());
      case '"':
        return this.string();
    }
    const constant = this.match(CONSTANT);
    if (constant) return CONSTANTS[constant[0]];
    const number = this.match(NUMBER);
    if (!number) throw this.unexpected('a value');
    const [digits, fraction, exponent] = number;
    if (fraction !== undefined || exponent !== undefined) return new PythonFloat(Number(digits));
    if (digits.length > MAX_DIGITS) throw this.unexpected(`an integer of at most ${MAX_DIGITS} digits`);
    const whole = Number(digits);
    return Number.isSafeInteger(whole) ? whole + 0 : BigInt(digits); // -0 is 0
  }

  /** Reads the comma-separated items between brackets. */
  private items<T>(closing: string, item: () => T): T[] {
    if (++this.depth > MAX_JSON_DEPTH) throw this.unexpected(`at most ${MAX_JSON_DEPTH} nested brackets`);
    this.at++;
    const items: T[] = [];
    this.match(SPACE);
    if (this.text[this.at] !== closing) {
      items.push(item());
      while (this.text[this.at] === ',') {
        this.at++;
        items.push(item());
      }
      if (this.text[this.at] !== closing) throw this.unexpected(`a comma or ${closing}`);
    }
    this.at++;
    this.depth--;
    return items;
  }

  private entry(): [string, unknown] {
    this.match(SPACE);
    if (this.text[this.at] !== '"') throw this.unexpected('a key in double quotes');
    const key = this.string();
    this.match(SPACE);
    if (this.text[this.at] !== ':') throw this.unexpected('a colon');
    this.at++;
    return [key, this.value()];
  }

  private string(): string {
    this.at++;
    let text = '';
    for (;;) {
      text += (this.match(this.plain) as RegExpExecArray)[0];
      if (this.text[this.at] === '"') break;
      const escaped = this.match(ESCAPE);
      if (!escaped)
        throw this.unexpected(this.at < this.text.length ? 'no bare control character or wrong escape' : '"');
      const [, letter, code] = escaped;
      text +=
        code === undefined ? (ESCAPED[letter] ?? letter) : String.fromCharCode(Number.parseInt(code, 16));
    }
    this.at++;
    return text;
  }

  private match(pattern: RegExp): RegExpExecArray | null {
    pattern.lastIndex = this.at;
    const match = pattern.exec(this.text);
    if (match) this.at += match[0].length;
    return match;
  }

  private unexpected(expected: string): SyntaxError {
    const got =
      this.at < this.text.length ? JSON.stringify(this.text.slice(this.at, this.at + 20)) : 'the end';
    return new SyntaxError(`expected ${expected} at character ${this.at}, got ${got}`);
  }
}

export interface WritePythonJsonOptions {
  /** Indentation of each level. Without it, the text is one line. */
  indent?: string;
  /** Texts between items and after keys. Default `', '` (only a comma when indented) and `': '`. */
  separators?: readonly [string, string];
  /** Whether to write non-ASCII characters as `\u…`. Default false. */
  ensureAscii?: boolean;
  sortKeys?: boolean;
}

/**
 * Writes JSON as Python's `json.dumps(value, ensure_ascii=False)` does. A whole JavaScript number becomes an integer, a
 * map an object.
 */
export function writePythonJson(value: unknown, options: WritePythonJsonOptions = {}): string {
  const {indent, ensureAscii = false, sortKeys = false} = options;
  const [comma, colon] = options.separators ?? [indent === undefined ? ', ' : ',', ': '];
  const string = (text: string) => {
    const json = JSON.stringify(text);
    const escaped = (char: string) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`;
    return ensureAscii ? json.replace(/[\u007f-\uffff]/g, escaped) : json;
  };
  const block = (open: string, items: string[], close: string, padding: string) => {
    if (items.length === 0) return open + close;
    if (indent === undefined) return open + items.join(comma) + close;
    return open + padding + indent + items.join(comma + padding + indent) + padding + close;
  };
  const write = (item: unknown, padding: string): string => {
    if (item === null || item === undefined) return 'null';
    if (typeof item === 'string') return string(item);
    if (typeof item === 'number' || item instanceof PythonFloat) return numberText(item);
    if (typeof item !== 'object') return String(item);
    const inner = padding + (indent ?? '');
    if (Array.isArray(item))
      return block(
        '[',
        item.map((each) => write(each, inner)),
        ']',
        padding,
      );
    const entries = item instanceof Map ? [...(item as Map<string, unknown>)] : entriesOf(item);
    if (sortKeys) entries.sort(([a], [b]) => byCodePoints(a, b));
    const pairs = entries.map(([key, each]) => `${string(key)}${colon}${write(each, inner)}`);
    return block('{', pairs, '}', padding);
  };
  return write(value, '\n');
}

function numberText(number: number | PythonFloat): string {
  if (typeof number === 'number' && Number.isInteger(number)) return wholeText(number);
  const value = Number(number);
  if (Number.isFinite(value)) return `${new PythonFloat(value)}`;
  return Number.isNaN(value) ? 'NaN' : value > 0 ? 'Infinity' : '-Infinity';
}

/** Compares strings in Python's order. */
function byCodePoints(a: string, b: string): number {
  const [left, right] = [Array.from(a), Array.from(b)];
  const at = left.findIndex((char, i) => char !== right[i]);
  if (at < 0) return left.length - right.length;
  return right[at] === undefined
    ? 1
    : (left[at].codePointAt(0) as number) - (right[at].codePointAt(0) as number);
}
