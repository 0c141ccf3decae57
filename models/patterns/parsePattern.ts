/** A parsed regular expression. */
export type PatternNode =
  /** One character. */
  | {readonly kind: 'set'; readonly has: (codePoint: number) => boolean}
  | {readonly kind: 'sequence'; readonly parts: readonly PatternNode[]}
  | {readonly kind: 'choice'; readonly branches: readonly PatternNode[]}
  | {
      readonly kind: 'repeat';
      readonly body: PatternNode;
      readonly min: number;
      /** Infinity for `*` and `+`. */
      readonly max: number;
      readonly lazy: boolean;
    }
  | {readonly kind: 'look'; readonly body: PatternNode; readonly behind: boolean; readonly negated: boolean}
  /** Keeps the first match of its body: `(?>…)`, or a possessive repetition. */
  | {readonly kind: 'atomic'; readonly body: PatternNode}
  /** A condition on the place between two characters: `^`, `\b`. */
  | {readonly kind: 'place'; readonly holds: (text: readonly number[], at: number) => boolean};

/**
 * Syntax of a pattern. `python` is that of the `re` module. `oniguruma` is that of the Rust tokenizers, of which only
 * the structure is parsed: sets accept any character.
 */
export type PatternSyntax = 'python' | 'oniguruma';

/** Maximum nesting of groups. */
const MAX_NESTING = 50;

/** Maximum count of a repetition. */
const MAX_COUNT = 65_535;

interface Flags {
  ignoreCase: boolean;
  multiline: boolean;
  dotAll: boolean;
  verbose: boolean;
  ascii: boolean;
}

const FLAG_LETTERS = {i: 'ignoreCase', m: 'multiline', s: 'dotAll', x: 'verbose', a: 'ascii'} as const;

/**
 * Parses a pattern.
 *
 * @throws SyntaxError naming what cannot be parsed, or is not a regular language (references to groups), and where
 */
export function parsePattern(source: string, syntax: PatternSyntax): PatternNode {
  return new PatternParser(source, syntax).parse();
}

class PatternParser {
  private at = 0;
  private nesting = 0;
  private flags: Flags = {ignoreCase: false, multiline: false, dotAll: false, verbose: false, ascii: false};

  constructor(
    private readonly source: string,
    private readonly syntax: PatternSyntax,
  ) {}

  parse(): PatternNode {
    this.readGlobalFlags();
    const node = this.choice();
    if (this.at < this.source.length) throw this.fault('an unmatched closing parenthesis');
    return node;
  }

  private readGlobalFlags(): void {
    let match = /^\(\?([aiLmsux]+)\)/.exec(this.source);
    while (match && this.syntax === 'python') {
      this.flags = this.flagsWith(match[1], '');
      this.at += match[0].length;
      match = /^\(\?([aiLmsux]+)\)/.exec(this.source.slice(this.at));
    }
  }

  private choice(): PatternNode {
    if (++this.nesting > MAX_NESTING) throw this.fault(`groups nested deeper than ${MAX_NESTING}`);
    const branches = [this.sequence()];
    while (this.take('|')) branches.push(this.sequence());
    this.nesting--;
    return branches.length === 1 ? branches[0] : {kind: 'choice', branches};
  }

  private sequence(): PatternNode {
    const parts: PatternNode[] = [];
    for (;;) {
      this.skipComments();
      if (this.at >= this.source.length || this.peek('|') || this.peek(')')) break;
      const atom = this.atom();
      parts.push(this.repeated(atom));
    }
    return parts.length === 1 ? parts[0] : {kind: 'sequence', parts};
  }

  private skipComments(): void {
    for (;;) {
      const rest = this.source.slice(this.at);
      const skipped =
        /^\(\?#[^)]*\)/.exec(rest) ?? (this.flags.verbose ? /^(?:\s|#[^\n]*)+/.exec(rest) : null);
      if (!skipped) return;
      this.at += skipped[0].length;
    }
  }

  private repeated(atom: PatternNode): PatternNode {
    this.skipComments();
    let range = this.quantifier();
    if (!range) return atom;
    let node = atom;
    do {
      if (node.kind === 'place') throw this.fault('a quantifier with nothing to repeat');
      const lazy = this.take('?');
      const possessive = !lazy && !(this.syntax === 'oniguruma' && range.braces) && this.take('+');
      const repeat: PatternNode = {kind: 'repeat', body: node, min: range.min, max: range.max, lazy};
      node = possessive ? {kind: 'atomic', body: repeat} : repeat;
      this.skipComments();
      range = this.quantifier();
      if (range && this.syntax === 'python') throw this.fault('a quantifier after a quantifier');
    } while (range);
    return node;
  }

  private quantifier(): {min: number; max: number; braces?: true} | undefined {
    if (this.take('*')) return {min: 0, max: Number.POSITIVE_INFINITY};
    if (this.take('+')) return {min: 1, max: Number.POSITIVE_INFINITY};
    if (this.take('?')) return {min: 0, max: 1};
    const [whole, least, comma, most] =
      /^\{(\d*)(,?)(\d*)\}/.exec(this.source.slice(this.at, this.at + 40)) ?? [];
    if (whole === undefined || whole === '{}') return undefined; // an ordinary brace
    this.at += whole.length;
    const min = Number(least);
    const max = comma === '' ? min : most === '' ? Number.POSITIVE_INFINITY : Number(most);
    if (min > max) throw this.fault(`a repetition of at least ${min} and at most ${max} times`);
    if (min > MAX_COUNT || (max > MAX_COUNT && max !== Number.POSITIVE_INFINITY)) {
      throw this.fault(`a repetition of more than ${MAX_COUNT} times`);
    }
    return {min, max, braces: true};
  }

  private atom(): PatternNode {
    if (this.quantifier()) throw this.fault('a quantifier with nothing to repeat');
    const character = this.next();
    switch (character) {
      case '(':
        return this.group();
      case '[':
        return this.characterClass();
      case '\\':
        return this.escape();
      case '.': {
        const {dotAll} = this.flags;
        return set((code) => dotAll || code !== NEWLINE);
      }
      case '^':
        return place(startOf(this.flags.multiline));
      case '$':
        return place(endOf(this.flags.multiline));
      default:
        return this.literal(character.codePointAt(0) as number);
    }
  }

  private group(): PatternNode {
    const before = this.flags;
    const wrap = this.groupKind();
    const body = this.choice();
    if (!this.take(')')) throw this.fault('a group that is not closed');
    this.flags = before;
    return wrap(body);
  }

  /** Reads what follows the parenthesis, and returns the function that makes the group from its body. */
  private groupKind(): (body: PatternNode) => PatternNode {
    if (!this.take('?')) return grouped;
    const rest = this.source.slice(this.at, this.at + 200);
    const [look, behind] = /^(<?)[=!]/.exec(rest) ?? [];
    if (look !== undefined) {
      this.at += look.length;
      return (body) => ({kind: 'look', body, behind: behind === '<', negated: look.endsWith('!')});
    }
    if (this.take('>')) return (body) => ({kind: 'atomic', body});
    const name = (
      this.syntax === 'python' ? /^P<[\p{L}_][\p{L}\p{N}_]*>/u : /^P?<[\p{L}_][\p{L}\p{N}_]*>/u
    ).exec(rest);
    if (name) {
      this.at += name[0].length;
      return grouped;
    }
    if (rest.startsWith('P=')) throw this.fault('a reference to a group, which takes more than linear time');
    if (rest.startsWith('(')) throw this.fault('a group that depends on another');
    const [whole, on, off = ''] = /^([aiLmsux]*)(?:-([imsx]+))?:/.exec(rest) ?? [];
    if (whole === undefined)
      throw this.fault(`an unknown kind of group, (?${[...rest].slice(0, 8).join('')}`);
    this.at += whole.length;
    this.flags = this.flagsWith(on, off);
    return grouped;
  }

  private flagsWith(on: string, off: string): Flags {
    const flags = {...this.flags};
    for (const [letters, value] of [
      [on, true],
      [off, false],
    ] as const) {
      for (const letter of letters) {
        if (letter === 'L') throw this.fault('the flag L, which depends on the machine');
        if (letter in FLAG_LETTERS) flags[FLAG_LETTERS[letter as keyof typeof FLAG_LETTERS]] = value;
      }
    }
    return flags;
  }

  private escape(): PatternNode {
    if (this.at >= this.source.length) throw this.fault('a backslash at its end');
    const letter = this.next();
    const between = this.placeEscape(letter);
    if (between) return place(between);
    if (this.syntax === 'oniguruma') return this.structureEscape(letter);
    const named = this.classEscape(letter);
    if (named) return set(named);
    if (/[1-9]/.test(letter)) throw this.fault('a reference to a group, which takes more than linear time');
    return this.literal(this.codeOfEscape(letter));
  }

  private placeEscape(letter: string) {
    const isWord = wordSet(this.flags.ascii);
    const boundary = (text: readonly number[], at: number) =>
      (at > 0 && isWord(text[at - 1])) !== (at < text.length && isWord(text[at]));
    if (letter === 'A') return startOf(false);
    if (letter === 'z' || (letter === 'Z' && this.syntax === 'python')) return endOfText;
    if (letter === 'Z') return endOf(false);
    if (letter === 'b') return boundary;
    if (letter === 'B') return (text: readonly number[], at: number) => !boundary(text, at);
    return undefined;
  }

  /** Parses an escape of Oniguruma, of which only the structure matters: one character, or a refused reference. */
  private structureEscape(letter: string): PatternNode {
    if (/[1-9kg]/.test(letter)) throw this.fault('a reference to a group, which takes more than linear time');
    const braces = /[pPxuo]/.test(letter) ? /^\{[^}]*\}/.exec(this.source.slice(this.at)) : null;
    const digits = {x: /^[0-9a-fA-F]{1,2}/, u: /^[0-9a-fA-F]{4}/}[letter]?.exec(this.source.slice(this.at));
    this.at += (braces ?? digits)?.[0].length ?? 0;
    return set(() => true);
  }

  /** Returns the class of `\d` and the like, or undefined when the letter names none. */
  private classEscape(letter: string): ((code: number) => boolean) | undefined {
    const {ascii} = this.flags;
    const found = CLASSES[letter.toLowerCase()]?.(ascii);
    if (!found || letter === letter.toLowerCase()) return found;
    return (code) => !found(code);
  }

  /** Returns the character that an escape stands for. */
  private codeOfEscape(letter: string): number {
    const control = CONTROLS[letter];
    if (control !== undefined) return control;
    const length = HEX_DIGITS[letter];
    const rest = this.source.slice(this.at, this.at + 8);
    if (length !== undefined) {
      const hex = /^[0-9a-fA-F]*/.exec(rest.slice(0, length))?.[0] ?? '';
      const code = Number.parseInt(hex, 16);
      if (hex.length < length || code > 0x10ffff) throw this.fault(`an incomplete escape, \\${letter}${hex}`);
      this.at += length;
      return code;
    }
    if (/[0-7]/.test(letter)) {
      const octal = /^[0-7]{0,2}/.exec(rest)?.[0] ?? '';
      this.at += octal.length;
      return Number.parseInt(letter + octal, 8);
    }
    if (/[a-zA-Z0-9]/.test(letter)) throw this.fault(`an unknown escape, \\${letter}`);
    return letter.codePointAt(0) as number;
  }

  private characterClass(): PatternNode {
    if (this.syntax === 'oniguruma') return this.structureClass();
    const negated = this.take('^');
    const tests: ((code: number) => boolean)[] = [];
    for (let first = true; first || !this.peek(']'); first = false) {
      const from = this.classItem();
      if (typeof from === 'number' && this.peek('-') && !this.source.startsWith('-]', this.at)) {
        this.at++;
        const to = this.classItem();
        if (typeof to !== 'number' || to < from) throw this.fault('an invalid range of characters');
        tests.push((code) => code >= from && code <= to);
      } else {
        tests.push(typeof from === 'number' ? (code) => code === from : from);
      }
    }
    this.at++;
    const has = this.folded((code) => tests.some((test) => test(code)));
    return set(negated ? (code) => !has(code) : has);
  }

  private classItem(): number | ((code: number) => boolean) {
    if (this.at >= this.source.length) throw this.fault('a class that is not closed');
    const character = this.next();
    if (character !== '\\') return character.codePointAt(0) as number;
    if (this.at >= this.source.length) throw this.fault('a class that is not closed');
    const letter = this.next();
    return letter === 'b' ? 8 : (this.classEscape(letter) ?? this.codeOfEscape(letter));
  }

  /** Parses a class of Oniguruma, which may contain classes. */
  private structureClass(): PatternNode {
    let depth = 1;
    while (depth > 0) {
      if (this.at >= this.source.length) throw this.fault('a class that is not closed');
      const character = this.next();
      if (character === '\\') this.at++;
      else if (character === '[') depth++;
      else if (character === ']') depth--;
    }
    return set(() => true);
  }

  private literal(code: number): PatternNode {
    return set(this.folded((other) => other === code));
  }

  private folded(has: (code: number) => boolean): (code: number) => boolean {
    if (!this.flags.ignoreCase) return has;
    return (code) => casesOf(code).some(has);
  }

  private peek(character: string): boolean {
    return this.source[this.at] === character;
  }

  private take(character: string): boolean {
    if (!this.peek(character)) return false;
    this.at++;
    return true;
  }

  private next(): string {
    const character = String.fromCodePoint(this.source.codePointAt(this.at) as number);
    this.at += character.length;
    return character;
  }

  private fault(got: string): SyntaxError {
    return new SyntaxError(`${got}, at character ${this.at}`);
  }
}

const NEWLINE = 10;

/** Wraps a node in a group, so that it can be repeated even if it is a place. */
const grouped = (body: PatternNode): PatternNode => ({kind: 'sequence', parts: [body]});

const CONTROLS: Record<string, number> = {a: 7, f: 12, n: 10, r: 13, t: 9, v: 11};

const HEX_DIGITS: Record<string, number> = {x: 2, u: 4, U: 8};

const set = (has: (code: number) => boolean): PatternNode => ({kind: 'set', has});

type Holds = (text: readonly number[], at: number) => boolean;

const place = (holds: Holds): PatternNode => ({kind: 'place', holds});

const endOfText: Holds = (text, at) => at === text.length;

const startOf =
  (multiline: boolean): Holds =>
  (text, at) =>
    at === 0 || (multiline && text[at - 1] === NEWLINE);

/** Makes `$`, which also matches before a newline at the end of the text. */
const endOf =
  (multiline: boolean): Holds =>
  (text, at) =>
    at === text.length || (text[at] === NEWLINE && (multiline || at === text.length - 1));

const tester =
  (unicode: RegExp, ascii: RegExp) =>
  (isAscii: boolean) =>
  (code: number): boolean =>
    (isAscii ? ascii : unicode).test(String.fromCodePoint(code));

const digitSet = tester(/^\p{Nd}$/u, /^[0-9]$/);
const wordSet = tester(/^[\p{L}\p{N}_]$/u, /^[a-zA-Z0-9_]$/);
/** Characters of `\s`, as in Python's `str.isspace`. */
const spaceSet = tester(/^[\p{Zs}\p{Zl}\p{Zp}\t-\r\x1c-\x1f\x85]$/u, /^[ \t-\r]$/);

const CLASSES: Record<string, typeof digitSet> = {d: digitSet, s: spaceSet, w: wordSet};

/** Returns a character and those that differ from it only in case. */
function casesOf(code: number): number[] {
  const text = String.fromCodePoint(code);
  const single = [text.toLowerCase(), text.toUpperCase()].filter((other) => [...other].length === 1);
  return [code, ...single.map((other) => other.codePointAt(0) as number)];
}
