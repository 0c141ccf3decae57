import fc from 'fast-check';
import {parseJson, parseStrictJson} from '../../quant/parseJson.ts';

describe('parseStrictJson', () => {
  test('reads what JSON.parse reads, for any value', () => {
    fc.assert(
      fc.property(fc.jsonValue(), fc.constantFrom(0, 2), (value, indent) => {
        const text = JSON.stringify(value, null, indent);
        expect(parseStrictJson(text)).toEqual(JSON.parse(text));
      }),
    );
  });

  test('throws only SyntaxError for any text', () => {
    const pieces = fc.array(fc.constantFrom('{', '}', '[', ']', '"', '\\', ':', ',', 'a', '1', ' ', '"a"'), {
      maxLength: 40,
    });
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string(),
          pieces.map((parts) => parts.join('')),
        ),
        (text) => {
          let expected: unknown = SyntaxError;
          try {
            expected = JSON.parse(text);
          } catch {}
          try {
            expect(parseStrictJson(text)).toEqual(expected);
          } catch (error) {
            expect(error).toBeInstanceOf(SyntaxError);
          }
        },
      ),
      {numRuns: 2000},
    );
  });

  test.each([
    ['at the top', '{"a":1,"a":2}', /key "a" twice, again at character 7/],
    ['spelled with an escape', '{"a":1,"\\u0061":2}', /key "a" twice/],
    ['with space before the colon', '{"a" :1,"a"\n\t\r :2}', /key "a" twice/],
    ['deeper', '[{"b":{"x":1,"y":[],"x":2}}]', /key "x" twice/],
    ['after an object of the same key', '{"a":{"a":1},"a":2}', /key "a" twice/],
    ['that is empty', '{"":1,"":2}', /key "" twice/],
    ['named __proto__', '{"__proto__":1,"__proto__":2}', /key "__proto__" twice/],
  ])('refuses a key used twice %s', (_, text, message) => {
    expect(() => parseStrictJson(text)).toThrow(message);
  });

  test('allows the same key in different objects and among the values', () => {
    const text = '{"a":{"a":"a"},"b":[{"a":1},{"a":2}],"c":"a","d\\"":"\\\\"}';
    expect(parseStrictJson(text)).toEqual(JSON.parse(text));
  });

  test('refuses deep nesting, but not brackets within strings', () => {
    expect(() => parseStrictJson('['.repeat(65) + ']'.repeat(65))).toThrow(/deeper than 64/);
    expect(() => parseStrictJson('['.repeat(5_000_000))).toThrow(/deeper than 64/);
    const brackets = JSON.stringify('[{'.repeat(100));
    expect(parseStrictJson(brackets)).toBe(JSON.parse(brackets));
  });
});

describe('parseJson', () => {
  test('keeps the last of two values of a key, as Python does', () => {
    expect(parseJson('{"a":1,"a":2}')).toEqual({a: 2});
  });

  test('refuses nesting deeper than 64', () => {
    expect(() => parseJson('{"a":'.repeat(100_000))).toThrow(/deeper than 64/);
  });

  test('keeps names that every object inherits as plain properties', () => {
    const value = parseJson('{"__proto__":{"polluted":1},"constructor":2}') as Record<string, unknown>;
    expect(Object.keys(value)).toEqual(['__proto__', 'constructor']);
    expect(value.polluted).toBeUndefined();
    expect(({} as Record<string, unknown>).polluted).toBeUndefined();
  });
});
