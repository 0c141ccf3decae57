import {PythonPattern} from '../../../models/patterns/pythonPattern.ts';
import cases from './pythonPattern.json';

interface Case {
  pattern: string;
  full: boolean[];
  start: boolean[];
}

const {names, written, texts, drawn, refused} = cases as {
  names: string[];
  written: Case[];
  texts: string[];
  drawn: Case[];
  refused: string[];
};

/** Matches of a pattern by `re` and by us. */
const found = ({pattern}: Case, among: string[]): Case => {
  const compiled = new PythonPattern(pattern, 'pattern');
  return {
    pattern,
    full: among.map((text) => compiled.fullMatch(text)),
    start: among.map((text) => compiled.match(text)),
  };
};

describe('PythonPattern', () => {
  test.each(written.map((each) => [each.pattern, each] as const))('%s matches as in Python', (_, each) => {
    expect(found(each, names)).toEqual(each);
  });

  test('random patterns match as in Python', () => {
    expect(drawn).toHaveLength(300);
    expect(drawn.map((each) => found(each, texts))).toEqual(drawn);
  });

  test.each(refused)('%s is refused, as in Python', (pattern) => {
    expect(() => new PythonPattern(pattern, 'adapter_config.json target_modules')).toThrow(
      /^adapter_config.json target_modules: expected a regular expression as Python's re reads it, got ".*", with /,
    );
  });

  test.each([
    ['(a)\\1', 'a reference to a group, which takes more than linear time, at character 5'],
    ['(?P<n>a)(?P=n)', 'a reference to a group, which takes more than linear time'],
    ['(a)?(?(1)b|c)', 'a group that depends on another'],
    ['(?L)a', 'the flag L, which depends on the machine'],
    ['(?:(?:a{100}){100}){100}', 'too many repetitions'],
    ['(?:(?:){60000}){60000}', 'too many repetitions'],
    ['('.repeat(100_000), 'groups nested deeper than 50'],
  ])('%#: refuses what no matcher can do in linear time', (pattern, message) => {
    expect(() => new PythonPattern(pattern, 'x')).toThrow(message);
  });

  test.each([
    '(?:[a-z._0-9]+)+!',
    '(a+)+$x',
    '(?:a|a)*b',
    '(?:a?){40}a{40}b',
    '(.*)*x',
    'a*a*a*a*a*a*a*a*b',
    '(?=(?:a*a*)*b)a',
    '(?!(?:a|aa)+$b)(?:a|aa)+b',
  ])('%s finishes immediately on a text that takes a backtracking matcher ages', (pattern) => {
    expect(new PythonPattern(pattern, 'x').fullMatch('a'.repeat(400))).toBe(false);
  });
});
