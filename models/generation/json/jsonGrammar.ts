import {nearestNames, TfjsLoraError} from '../../../quant/errors.ts';
import {show} from '../../../quant/show.ts';
import type {Grammar} from './byteAutomaton.ts';

/** A JSON schema: an object with keywords, or `true` for any value. */
export type JsonSchema = boolean | {readonly [keyword: string]: unknown};

type Keywords = {readonly [keyword: string]: unknown};

/** Keywords that say nothing about the value. */
const ANNOTATIONS = [
  'title',
  'description',
  'default',
  'examples',
  'deprecated',
  'readOnly',
  'writeOnly',
  '$schema',
  '$id',
  '$comment',
  '$defs',
  'definitions',
];

/** Keywords for the values of a type. */
const OF_TYPE: Readonly<Record<string, readonly string[]>> = {
  object: ['properties', 'required', 'additionalProperties'],
  array: ['items', 'prefixItems', 'minItems', 'maxItems'],
  string: ['minLength', 'maxLength'],
  number: [],
  integer: [],
  boolean: [],
  null: [],
};
const TYPES = Object.keys(OF_TYPE);

/** Keywords that describe a value alone, each with those that may be beside it. */
const ALONE: Readonly<Record<string, readonly string[]>> = {
  $ref: [],
  anyOf: [],
  allOf: [],
  const: ['type'],
  enum: ['type'],
};
const KNOWN = [...Object.keys(ALONE), 'type', ...Object.values(OF_TYPE).flat()];

/** Digits before and after the point. More are never needed, and a model could continue them for ever. */
const MOST_DIGITS = 15;
/** Spaces at the start of a line. */
const MOST_INDENT = 16;

const bytes = (text: string): Grammar => ({kind: 'bytes', bytes: new TextEncoder().encode(text)});
const sequence = (...parts: Grammar[]): Grammar => ({kind: 'sequence', parts});
const choice = (...options: Grammar[]): Grammar => ({kind: 'choice', options});
const repeat = (part: Grammar, least: number, most = Number.POSITIVE_INFINITY): Grammar => ({
  kind: 'repeat',
  part,
  least,
  most,
});
/** One byte out of ranges, each a first and a last byte. */
function set(...ranges: [first: number | string, last: number | string][]): Grammar {
  const has = new Uint8Array(256);
  const codeOf = (end: number | string) => (typeof end === 'string' ? end.charCodeAt(0) : end);
  for (const [first, last] of ranges) has.fill(1, codeOf(first), codeOf(last) + 1);
  return {kind: 'set', has};
}

const NOTHING = sequence();
const SPACE = choice(
  NOTHING,
  bytes(' '),
  sequence(bytes('\n'), repeat(set([' ', ' '], ['\t', '\t']), 0, MOST_INDENT)),
);
const COMMA = sequence(SPACE, bytes(','), SPACE);
const COLON = sequence(SPACE, bytes(':'), SPACE);

const DIGIT = set(['0', '9']);
const WHOLE = sequence(
  choice(NOTHING, bytes('-')),
  choice(bytes('0'), sequence(set(['1', '9']), repeat(DIGIT, 0, MOST_DIGITS - 1))),
);
const NUMBER = sequence(
  WHOLE,
  choice(NOTHING, sequence(bytes('.'), repeat(DIGIT, 1, MOST_DIGITS))),
  choice(
    NOTHING,
    sequence(set(['e', 'e'], ['E', 'E']), choice(NOTHING, set(['+', '+'], ['-', '-'])), repeat(DIGIT, 1, 2)),
  ),
);

const HEX = set(['0', '9'], ['a', 'f'], ['A', 'F']);
const REST = set([0x80, 0xbf]);
/** A character within a string: valid UTF-8, or an escape other than half a surrogate pair. */
const CHARACTER = choice(
  set([0x20, 0x21], [0x23, 0x5b], [0x5d, 0x7f]),
  sequence(set([0xc2, 0xdf]), REST),
  sequence(set([0xe0, 0xe0]), set([0xa0, 0xbf]), REST),
  sequence(set([0xe1, 0xec], [0xee, 0xef]), REST, REST),
  sequence(set([0xed, 0xed]), set([0x80, 0x9f]), REST),
  sequence(set([0xf0, 0xf0]), set([0x90, 0xbf]), REST, REST),
  sequence(set([0xf1, 0xf3]), REST, REST, REST),
  sequence(set([0xf4, 0xf4]), set([0x80, 0x8f]), REST, REST),
  sequence(bytes('\\'), set(...[...'"\\/bfnrt'].map((letter): [string, string] => [letter, letter]))),
  sequence(bytes('\\u'), set(['0', '9'], ['a', 'c'], ['A', 'C'], ['e', 'f'], ['E', 'F']), HEX, HEX, HEX),
  sequence(bytes('\\u'), set(['d', 'd'], ['D', 'D']), set(['0', '7']), HEX, HEX),
);
const stringOf = (least: number, most?: number): Grammar =>
  sequence(bytes('"'), repeat(CHARACTER, least, most), bytes('"'));
const STRING = stringOf(0);

/** Items with commas between them, at least `least` and at most `most`. */
const listOf = (item: Grammar, least: number, most = Number.POSITIVE_INFINITY): Grammar => {
  if (most === 0) return NOTHING;
  const more = sequence(item, repeat(sequence(COMMA, item), Math.max(0, least - 1), most - 1));
  return least === 0 ? choice(NOTHING, more) : more;
};
const between = (open: string, inside: Grammar, close: string): Grammar =>
  sequence(bytes(open), SPACE, inside, SPACE, bytes(close));

const mapOf = (value: Grammar): Grammar => between('{', listOf(sequence(STRING, COLON, value), 0), '}');
const ANY: Grammar = {
  kind: 'rule',
  get: () => ANY_VALUE,
};
const ANY_OF_TYPE: Readonly<Record<string, Grammar>> = {
  object: mapOf(ANY),
  array: between('[', listOf(ANY, 0), ']'),
  string: STRING,
  number: NUMBER,
  integer: WHOLE,
  boolean: choice(bytes('true'), bytes('false')),
  null: bytes('null'),
};
const ANY_VALUE = choice(...Object.values(ANY_OF_TYPE));

/**
 * Makes the grammar of the JSON texts that are valid against a schema. Properties come in the schema's order; objects
 * have no others if any are declared.
 *
 * @throws TfjsLoraError `UNSUPPORTED` naming a keyword that cannot be enforced, `INVALID_ARGUMENT` for a schema that is
 *   wrong
 */
export function jsonGrammar(schema: JsonSchema): Grammar {
  return new SchemaReader(schema).read(schema, 'jsonSchema');
}

class SchemaReader {
  private readonly referenced = new Map<string, Grammar>();

  constructor(private readonly root: JsonSchema) {}

  read(schema: unknown, where: string): Grammar {
    if (schema === true) return ANY;
    if (!isObject(schema)) throw wrong(where, 'an object with keywords, or true', schema);
    const given = Object.keys(schema).filter(
      (name) => !ANNOTATIONS.includes(name) && schema[name] !== undefined,
    );
    const unknown = given.find((name) => !KNOWN.includes(name));
    if (unknown !== undefined) throw unsupported(`${where}.${unknown}`);
    const alone = given.find((name) => Object.hasOwn(ALONE, name));
    if (alone === undefined) return this.ofTypes(schema, given, where);
    const beside = given.find((name) => name !== alone && !ALONE[alone].includes(name));
    if (beside !== undefined) throw unsupported(`${where}.${beside}`, ` beside ${alone}`);
    return this.ofKeyword(schema, alone, where);
  }

  private ofKeyword(schema: Keywords, keyword: string, where: string): Grammar {
    const value = schema[keyword];
    const place = `${where}.${keyword}`;
    if (keyword === '$ref') return this.reference(value, place);
    if (keyword === 'const') return this.values([value], schema.type, where);
    if (!Array.isArray(value) || value.length === 0) throw wrong(place, 'a list', value);
    if (keyword === 'enum') return this.values(value, schema.type, where);
    if (keyword === 'allOf' && value.length > 1) throw unsupported(place, ' of several schemas');
    return choice(...value.map((each, index) => this.read(each, `${place}[${index}]`)));
  }

  private values(values: readonly unknown[], type: unknown, where: string): Grammar {
    const types = type === undefined ? TYPES : typesOf(type, where);
    const fitting = values.filter((value) => types.some((each) => isOfType(value, each)));
    if (fitting.length === 0) throw wrong(where, `a value of type ${types.join(' or ')}`, values);
    return choice(...fitting.map((value) => bytes(JSON.stringify(value))));
  }

  private reference(path: unknown, where: string): Grammar {
    if (typeof path !== 'string' || !/^#(\/|$)/.test(path))
      throw wrong(where, 'a place in the same schema, such as #/$defs/name', path);
    const known = this.referenced.get(path);
    if (known) return known;
    let target: unknown = this.root;
    for (const part of path.split('/').slice(1)) {
      const name = decodeURIComponent(part).replaceAll('~1', '/').replaceAll('~0', '~');
      target = isObject(target) && Object.hasOwn(target, name) ? target[name] : undefined;
      if (Array.isArray(target)) target = Object.fromEntries(target.entries());
    }
    if (target === undefined) throw wrong(where, 'a place in the same schema', path);
    let grammar: Grammar | undefined;
    const rule: Grammar = {kind: 'rule', get: () => grammar as Grammar};
    this.referenced.set(path, rule);
    grammar = this.read(target, path);
    return rule;
  }

  private ofTypes(schema: Keywords, given: readonly string[], where: string): Grammar {
    const implied = TYPES.find((type) => OF_TYPE[type].some((name) => given.includes(name)));
    const types = schema.type === undefined ? (implied ? [implied] : TYPES) : typesOf(schema.type, where);
    const stray = given.find(
      (name) => name !== 'type' && !types.some((type) => OF_TYPE[type].includes(name)),
    );
    if (stray !== undefined) throw unsupported(`${where}.${stray}`, ` for type ${types.join(', ')}`);
    return choice(...types.map((type) => this.ofType(type, schema, where)));
  }

  private ofType(type: string, schema: Keywords, where: string): Grammar {
    if (!OF_TYPE[type].some((name) => schema[name] !== undefined)) return ANY_OF_TYPE[type];
    if (type === 'object') return this.object(schema, where);
    if (type === 'array') return this.array(schema, where);
    const {least, most} = limits(schema, 'minLength', 'maxLength', where);
    return stringOf(least, most);
  }

  private object(schema: Keywords, where: string): Grammar {
    const {properties = {}, required = [], additionalProperties: others = true} = schema;
    if (!isObject(properties)) throw wrong(`${where}.properties`, 'an object', properties);
    if (!Array.isArray(required) || !required.every((name) => typeof name === 'string'))
      throw wrong(`${where}.required`, 'a list of names', required);
    const valueAt = (name: string) =>
      Object.hasOwn(properties, name)
        ? this.read(properties[name], `${where}.properties.${name}`)
        : this.read(others, `${where}.required ${name}`);
    const names = [...new Set([...Object.keys(properties), ...required])];
    if (names.length === 0) {
      return others === false
        ? between('{', NOTHING, '}')
        : mapOf(this.read(others, `${where}.additionalProperties`));
    }
    const members = names.map((name) => sequence(bytes(JSON.stringify(name)), COLON, valueAt(name)));
    // From the last to the first: the rest of an object after its first member, and at its start.
    let [later, first] = [NOTHING, NOTHING];
    for (let index = names.length - 1; index >= 0; index--) {
      const taken = sequence(members[index], later);
      const follows = sequence(COMMA, taken);
      const isOptional = !required.includes(names[index]);
      first = isOptional ? choice(taken, first) : taken;
      later = isOptional ? choice(follows, later) : follows;
    }
    return between('{', first, '}');
  }

  private array(schema: Keywords, where: string): Grammar {
    const {items = true, prefixItems = []} = schema;
    if (!Array.isArray(prefixItems)) throw wrong(`${where}.prefixItems`, 'a list of schemas', prefixItems);
    const {least, most = Number.POSITIVE_INFINITY} = limits(schema, 'minItems', 'maxItems', where);
    const fixed = prefixItems.map((each, index) => this.read(each, `${where}.prefixItems[${index}]`));
    const others = items === false ? undefined : this.read(items, `${where}.items`);
    if (fixed.length === 0) {
      if (!others && least > 0) throw wrong(`${where}.items`, `a schema for ${least} items`, items);
      return between('[', others ? listOf(others, least, most) : NOTHING, ']');
    }
    if (fixed.length > most)
      throw wrong(`${where}.maxItems`, `${fixed.length} or more, as prefixItems`, most);
    const [head, ...tail] = fixed;
    const rest = others
      ? repeat(sequence(COMMA, others), Math.max(0, least - fixed.length), most - fixed.length)
      : NOTHING;
    return between('[', sequence(head, ...tail.map((each) => sequence(COMMA, each)), rest), ']');
  }
}

const isObject = (value: unknown): value is Keywords =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

function typesOf(type: unknown, where: string): string[] {
  const types = [type].flat();
  const unknown = types.find((each) => !TYPES.includes(each as string));
  if (types.length > 0 && unknown === undefined) return types as string[];
  throw wrong(
    `${where}.type`,
    TYPES.join(', '),
    unknown,
    ` Nearest: ${nearestNames(String(unknown), TYPES, 1)[0]}.`,
  );
}

function isOfType(value: unknown, type: string): boolean {
  if (type === 'null') return value === null;
  if (type === 'array') return Array.isArray(value);
  if (type === 'object') return isObject(value);
  if (type === 'integer') return Number.isInteger(value);
  return typeof value === type;
}

function limits(
  schema: Keywords,
  lower: string,
  upper: string,
  where: string,
): {least: number; most?: number} {
  for (const name of [lower, upper]) {
    const limit = schema[name];
    if (limit !== undefined && !(Number.isSafeInteger(limit) && (limit as number) >= 0))
      throw wrong(`${where}.${name}`, 'a whole number of 0 or more', limit);
  }
  const [least = 0, most] = [schema[lower], schema[upper]] as (number | undefined)[];
  if (most !== undefined && most < least)
    throw wrong(`${where}.${upper}`, `${least} or more, as ${lower}`, most);
  return {least, most};
}

function wrong(where: string, expected: string, got: unknown, advice = ''): TfjsLoraError {
  return new TfjsLoraError('INVALID_ARGUMENT', `${where}: expected ${expected}, got ${show(got)}.${advice}`);
}

function unsupported(where: string, what = ''): TfjsLoraError {
  return new TfjsLoraError(
    'UNSUPPORTED',
    `${where}: expected keywords that can be enforced, got one that cannot${what}. ` +
      `Leave it out, and check the answer yourself. Supported: ${KNOWN.join(', ')}.`,
  );
}
