import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {z} from 'zod';
import {streamTokens} from '../../../../models/generation/generate.ts';
import {ByteAutomaton} from '../../../../models/generation/json/byteAutomaton.ts';
import {type JsonSchema, jsonGrammar} from '../../../../models/generation/json/jsonGrammar.ts';
import {TokenConstraint} from '../../../../models/generation/json/tokenConstraint.ts';
import {Llama, useBackend} from '../../../../src/index.ts';
import {errorOf} from '../../tinyLlama.ts';

/** Whether the grammar of a schema takes a whole text. */
function accepts(schema: JsonSchema, text: string): boolean {
  const automaton = new ByteAutomaton(jsonGrammar(schema));
  let state = automaton.start as ReturnType<ByteAutomaton['step']>;
  for (const byte of new TextEncoder().encode(text)) state = state && automaton.step(state, byte);
  return state?.isComplete ?? false;
}

const person = {
  type: 'object',
  properties: {
    name: {type: 'string', minLength: 1, maxLength: 8},
    age: {type: 'integer'},
    tags: {type: 'array', items: {enum: ['a', 'b"c', 3]}, minItems: 1, maxItems: 2},
    parent: {anyOf: [{$ref: '#'}, {type: 'null'}]},
  },
  required: ['name', 'tags'],
  additionalProperties: false,
};
const place = {
  type: 'array',
  prefixItems: [{type: 'number'}, {const: 'x'}],
  items: {type: ['boolean', 'null']},
  maxItems: 4,
};

test.each<[JsonSchema, string[], string[]]>([
  [
    true,
    ['null', '-0.5e+10', '"\\u00e9é\\n😀"', '[]', '[1, [true,{"a" : {}}]]', '{\n  "a": 1\n}', '12'],
    ['', '01', '+1', '1.', '"\u0001"', '"\\x"', '[1,]', '{a:1}', '{"a":1,}', 'nul', '"\\ud800"', '1 '],
  ],
  [{type: 'object'}, ['{}', '{"a": [1]}'], ['[]', '1']],
  [{type: 'integer'}, ['0', '-7', '123456789012345'], ['1.0', '1234567890123456', '"1"']],
  [{type: 'string', minLength: 2, maxLength: 3}, ['"ab"', '"é😀"', '"\\n\\u0041b"'], ['"a"', '"abcd"', 'ab']],
  [
    person,
    [
      '{"name": "A", "tags": ["a"]}',
      '{"name":"A","age":-1,"tags":[3,"b\\"c"],"parent":{"name":"B","tags":["a"]}}',
    ],
    [
      '{"tags": ["a"], "name": "A"}', // not in the schema's order
      '{"name": "A"}',
      '{"name": "", "tags": ["a"]}',
      '{"name": "A", "tags": []}',
      '{"name": "A", "tags": ["a","a","a"]}',
      '{"name": "A", "tags": ["a"], "more": 1}',
    ],
  ],
  [
    place,
    ['[1, "x"]', '[1, "x", true, null]'],
    ['[1]', '[1, "y"]', '[1, "x", 1]', '[1, "x", true, true, true]'],
  ],
  [
    {properties: {a: true, b: true}},
    ['{}', '{"a":1}', '{"b":1}', '{"a":1,"b":2}'],
    ['{"b":1,"a":2}', '{"c":1}', '[]'],
  ],
  [{required: ['a'], additionalProperties: {type: 'null'}}, ['{"a":null}'], ['{}', '{"a":1}']],
  [{type: 'object', additionalProperties: {type: 'integer'}}, ['{}', '{"x":1,"y":2}'], ['{"x":"1"}']],
  [{enum: [1, 'two', null, {a: [1]}], type: ['string', 'object']}, ['"two"', '{"a":[1]}'], ['1', 'null']],
  [{allOf: [{$ref: '#/$defs/a~1b'}], $defs: {'a/b': {const: 0}}}, ['0'], ['1']],
])('%j', (schema, valid, invalid) => {
  for (const text of valid) expect([text, accepts(schema, text)]).toEqual([text, true]);
  for (const text of invalid) expect([text, accepts(schema, text)]).toEqual([text, false]);
});

test.each<[unknown, string, string]>([
  [
    {type: 'string', pattern: 'a+'},
    'UNSUPPORTED',
    'jsonSchema.pattern: expected keywords that can be enforced',
  ],
  [{properties: {a: {format: 'date'}}}, 'UNSUPPORTED', 'jsonSchema.properties.a.format: '],
  [{oneOf: [{type: 'null'}]}, 'UNSUPPORTED', 'jsonSchema.oneOf: '],
  [
    {items: {}, type: 'string'},
    'UNSUPPORTED',
    'jsonSchema.items: expected keywords that can be enforced, got one that cannot for type string.',
  ],
  [
    {anyOf: [true], required: ['a']},
    'UNSUPPORTED',
    'jsonSchema.required: expected keywords that can be enforced, got one that cannot beside anyOf.',
  ],
  [
    {type: 'strin'},
    'INVALID_ARGUMENT',
    'jsonSchema.type: expected object, array, string, number, integer, boolean, null, got "strin". Nearest: string.',
  ],
  [
    {$ref: '#/$defs/none'},
    'INVALID_ARGUMENT',
    'jsonSchema.$ref: expected a place in the same schema, got "#/$defs/none".',
  ],
  [
    {minItems: 3, maxItems: 2},
    'INVALID_ARGUMENT',
    'jsonSchema.maxItems: expected 3 or more, as minItems, got 2.',
  ],
  [{enum: [1], type: 'string'}, 'INVALID_ARGUMENT', 'jsonSchema: expected a value of type string'],
  [false, 'INVALID_ARGUMENT', 'jsonSchema: expected an object with keywords, or true, got false.'],
  [7, 'INVALID_ARGUMENT', 'jsonSchema: expected an object with keywords, or true, got 7.'],
])('%j is refused', async (schema, code, message) => {
  expect(await errorOf(() => jsonGrammar(schema as JsonSchema))).toEqual({
    code,
    message: expect.stringContaining(message),
  });
});

describe('generation', () => {
  let model: Llama;
  beforeAll(async () => {
    await useBackend('wasm');
    model = await Llama.fromPretrained(join(__dirname, '../../../../examples/quickstart/model'));
  });
  afterAll(() => model.dispose());

  const valid = (schema: JsonSchema, text: string) =>
    z.fromJSONSchema(schema as Parameters<typeof z.fromJSONSchema>[0]).parse(JSON.parse(text));

  test.each<[string, JsonSchema]>([
    ['an object', {...person, properties: {...person.properties, parent: {type: 'null'}}}],
    ['a list', {type: 'array', items: {type: 'boolean'}, minItems: 2, maxItems: 5}],
    ['a string', {type: 'string', minLength: 3, maxLength: 20}],
    ['a number', {type: 'number'}],
  ])(
    'gives %s that is valid, greedy and sampled',
    async (_, schema) => {
      const prompts = [
        [1, 5, 9],
        [1, 7],
      ];
      const {numTensors} = tf.memory();
      for (const sampling of [{}, {doSample: true, topK: 0, seed: 1}]) {
        const texts = await model.generate(prompts, {jsonSchema: schema, maxNewTokens: 150, ...sampling});
        for (const text of texts) valid(schema, text);
        expect(tf.memory().numTensors).toBe(numTensors);
      }
    },
    120_000,
  );

  test('ends a complete answer without an end token, and reports that it stopped', async () => {
    const jsonSchema = {enum: ['yes', 'no']};
    expect(JSON.parse(await model.generate([1, 5], {jsonSchema, eosTokenId: [], maxNewTokens: 20}))).toMatch(
      /^(yes|no)$/,
    );
    const reasons: unknown[] = [];
    for await (const {finishReason} of streamTokens(model, [1, 5], {jsonSchema, maxNewTokens: 20}))
      reasons.push(finishReason);
    expect(reasons.filter(Boolean)).toEqual(['stop']);
  });

  test('never allows special tokens, and end tokens only at the end', () => {
    const tokens = new TokenConstraint({type: 'string'}, model.tokenizer!);
    const [quote] = model.tokenizer!.encode('"', {addSpecialTokens: false});
    const inside = tokens.after(tokens.start, quote);
    const allowed = tokens.allowedIds(inside);
    expect(allowed.length).toBeGreaterThan(1500);
    expect(allowed.filter((id) => model.tokenizer!.isSpecial(id))).toEqual([]);
    const scores = new Float32Array(2048);
    const end = model.tokenizer!.eosTokenId!;
    tokens.mask(scores, inside, [end]);
    expect(scores[end]).toBe(-Infinity);
    const done = tokens.after(inside, quote);
    tokens.mask(scores.fill(0), done, [end]);
    expect([...scores.keys()].filter((id) => scores[id] === 0)).toEqual([end]);
  });

  test('is refused for a schema that nothing fits, and beside minNewTokens', async () => {
    const refused = (options: object) => errorOf(() => model.generate([1, 5], options));
    expect(await refused({jsonSchema: {$ref: '#'}})).toMatchObject({code: 'INVALID_ARGUMENT'});
    expect(await refused({jsonSchema: true, minNewTokens: 2})).toMatchObject({code: 'INVALID_ARGUMENT'});
  });
});
