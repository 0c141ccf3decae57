import seedrandom from 'seedrandom';

/** A seeded source of choices. */
export class Dice {
  private readonly next: () => number;

  constructor(seed: string) {
    this.next = seedrandom(seed);
  }

  below(count: number): number {
    return Math.floor(this.next() * count);
  }

  pick<T>(from: readonly T[]): T {
    return from[this.below(from.length)];
  }
}

type Json = null | boolean | number | string | Json[] | {[key: string]: Json};

const nested = (depth: number, wrap: (inner: Json) => Json): Json => {
  let value: Json = 1;
  for (let i = 0; i < depth; i++) value = wrap(value);
  return value;
};

/** Values that readers seldom expect. Each is made when it is asked for: some are large. */
const HOSTILE: (() => Json)[] = [
  () => null,
  () => true,
  () => 0,
  () => -1,
  () => 0.5,
  () => 1e9,
  () => 2 ** 53,
  () => 1e308,
  () => -1e15,
  () => '',
  () => 'constructor',
  () => '__proto__',
  () => '../../etc/passwd',
  () => 'a\u0000b\ud800',
  () => 'x'.repeat(5000),
  () => '(a+)+$',
  () => '(?:[a-z._0-9]+)+!',
  () => '(',
  () => '{{ range(1e9) }}',
  () => [],
  () => ({}),
  () => [null],
  () => ({toString: 1, valueOf: null, constructor: {prototype: null}}),
  () => new Array<Json>(2000).fill(0),
  () => nested(60, (inner) => [inner]),
  () => nested(5000, (inner) => ({a: inner})),
];

const KEYS = ['__proto__', 'constructor', 'toString', 'hasOwnProperty', 'length', '', '0', 'a'.repeat(1000)];

/** The text of a JSON value with some of its parts replaced, removed, renamed or swapped. */
export function mutateJson(value: unknown, dice: Dice): string {
  let copy = structuredClone(value) as Json;
  for (let count = 1 + dice.below(3); count > 0; count--) copy = mutatePart(copy, dice);
  const text = toText(copy);
  return dice.below(8) === 0 ? mutateText(text, dice) : text;
}

/** `JSON.stringify`, but for any depth. */
function toText(value: Json): string {
  try {
    return JSON.stringify(value);
  } catch {
    return `${'{"a":'.repeat(5000)}1${'}'.repeat(5000)}`;
  }
}

function mutatePart(value: Json, dice: Dice): Json {
  if (typeof value !== 'object' || value === null || dice.below(6) === 0) return dice.pick(HOSTILE)();
  const keys = Object.keys(value);
  const key = keys.length > 0 ? dice.pick(keys) : '';
  const parts = value as Record<string, Json>;
  switch (dice.below(keys.length > 0 ? 8 : 1)) {
    case 0:
      define(parts, dice.pick(KEYS), dice.pick(HOSTILE)());
      return value;
    case 1:
      delete parts[key];
      return Array.isArray(value) ? value.filter((part) => part !== undefined) : value;
    case 2:
      define(parts, dice.pick(keys), parts[key]);
      return value;
    default:
      define(parts, key, mutatePart(parts[key], dice));
      return value;
  }
}

/** Sets a property of its own, whatever its name. */
function define(parts: Record<string, Json>, key: string, value: Json): void {
  if (Array.isArray(parts) && !/^\d+$/.test(key)) parts.push(value);
  else Object.defineProperty(parts, key, {value, enumerable: true, configurable: true, writable: true});
}

/** A text with some characters removed, repeated or replaced. */
export function mutateText(text: string, dice: Dice): string {
  let mutated = text;
  for (let count = 1 + dice.below(4); count > 0; count--) {
    const at = dice.below(mutated.length + 1);
    const length = dice.below(20);
    const [before, part, after] = [
      mutated.slice(0, at),
      mutated.slice(at, at + length),
      mutated.slice(at + length),
    ];
    mutated = dice.pick([
      () => before + after,
      () => before + part.repeat(dice.below(50)) + after,
      () =>
        before +
        dice.pick(['{', '}', '[', ']', '"', ':', ',', '\n', '*a', '&a ', '- ', '\u0000', '1e999']) +
        part +
        after,
      () => before + dice.pick(HOSTILE_TEXTS) + after,
      () => before,
    ])();
  }
  return mutated;
}

const HOSTILE_TEXTS = [
  '__proto__',
  'null',
  '~',
  '!!binary "A"',
  '<<',
  '[[[[',
  '{a: {a: {a: ',
  '-.inf',
  '.nan',
  '\ud800',
];

/** Bytes with some flipped, cut off, or repeated. */
export function mutateBytes(bytes: Uint8Array, dice: Dice): Uint8Array {
  const copy = bytes.slice();
  switch (dice.below(4)) {
    case 0:
      return copy.slice(0, dice.below(copy.length + 1));
    case 1: {
      const at = dice.below(copy.length + 1);
      return new Uint8Array([...copy.slice(0, at), ...copy.slice(dice.below(copy.length + 1))]);
    }
    default:
      for (let count = 1 + dice.below(8); count > 0; count--) copy[dice.below(copy.length)] = dice.below(256);
      return copy;
  }
}
