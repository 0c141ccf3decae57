import {MAX_JSON_DEPTH, parsePythonJson, writePythonJson} from '../../models/pythonJson.ts';
import {entriesOf, PythonFloat, pythonText} from '../../models/pythonValue.ts';
import cases from './fixtures/pythonTexts.json';

test('reads, writes and prints as Python does', () => {
  for (const [text, written] of cases as [string, string[] | null][]) {
    if (written === null) {
      expect(() => parsePythonJson(text)).toThrow(SyntaxError);
      continue;
    }
    const value = parsePythonJson(text);
    expect([
      writePythonJson(value),
      writePythonJson(value, {indent: '    '}),
      writePythonJson(value, {ensureAscii: true, sortKeys: true, separators: [',', ':']}),
      pythonText(value),
    ]).toEqual(written);
  }
});

test('reads integers that fit as JavaScript numbers', () => {
  expect(parsePythonJson('[1, -0, 9007199254740992, 2.0]')).toEqual([
    1,
    0,
    9007199254740992n,
    new PythonFloat(2),
  ]);
  expect(JSON.stringify(parsePythonJson('{"a": 2.5}'))).toBe('{"a":2.5}');
});

test('keeps the order of keys, which reach no prototype', () => {
  const value = parsePythonJson('{"b": 1, "10": 2, "2": 3, "b": 4, "__proto__": {"x": 5}}') as object;
  expect(entriesOf(value).slice(0, 3)).toEqual([
    ['b', 4],
    ['10', 2],
    ['2', 3],
  ]);
  expect(Object.getPrototypeOf(value)).toBe(Object.prototype);
  expect((value as {x?: number}).x).toBeUndefined();
});

test('accepts control characters within strings only on request', () => {
  expect(() => parsePythonJson('"a\nb"')).toThrow('at character 2');
  expect(parsePythonJson('"a\n\u0001b"', {controlCharacters: true})).toBe('a\n\u0001b');
});

test('limits depth and digits', () => {
  const nested = (depth: number) => '['.repeat(depth) + ']'.repeat(depth);
  expect(writePythonJson(parsePythonJson(nested(MAX_JSON_DEPTH)))).toBe(nested(MAX_JSON_DEPTH));
  for (const text of [nested(MAX_JSON_DEPTH + 1), '['.repeat(1e6), '{"a":'.repeat(1e5), '9'.repeat(1e6)])
    expect(() => parsePythonJson(text)).toThrow(SyntaxError);
});
