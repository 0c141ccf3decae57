import {assertTokenizerPatterns} from '../../../models/patterns/assertTokenizerPatterns.ts';

/** A pre-tokenizer as Hugging Face writes it. */
const tokenizerWith = (pattern: string) => ({
  pre_tokenizer: {
    type: 'Sequence',
    pretokenizers: [{type: 'Split', pattern: {Regex: pattern}, behavior: 'Isolated', invert: false}],
  },
});

const LETTERS = String.raw`[^\r\n\p{L}\p{N}]?\p{L}+`;
const REST = String.raw` ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`;
const CASED = String.raw`[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`;
const UNCASED = String.raw`[\p{Ll}\p{Lm}\p{Lo}\p{M}]`;

describe('assertTokenizerPatterns', () => {
  test.each([
    ['Llama 3', `(?i:'s|'t|'re|'ve|'m|'ll|'d)|${LETTERS}|\\p{N}{1,3}|${REST}`],
    ['Qwen 2', `(?i:'s|'t|'re|'ve|'m|'ll|'d)|${LETTERS}|\\p{N}|${REST}`],
    ['GPT-2', String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`],
    [
      'cl100k',
      String.raw`'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+`,
    ],
    [
      'o200k and Llama 4',
      `[^\\r\\n\\p{L}\\p{N}]?${CASED}*${UNCASED}+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|` +
        `[^\\r\\n\\p{L}\\p{N}]?${CASED}+${UNCASED}*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|` +
        '\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+',
    ],
    [
      'DeepSeek V3',
      String.raw`[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_${'`'}{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`,
    ],
    ['DeepSeek Coder', String.raw`\s+$`],
    ['BLOOM', String.raw` ?[^(\s|[.,!?…。，、।۔،])]+`],
    ['CLIP', String.raw`<\|startoftext\|>|'s|'t|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+`],
    ['Falcon', '[0-9][0-9][0-9]'],
    ['T5', ' {2,}'],
    ['digits in threes', String.raw`\d{1,3}(?=(?:\d{3})*\b)|(?=(\d{3})+(?!\d))`],
    ['POSIX classes', '[[:alpha:][:digit:]]+|[^[:space:]]'],
  ])('accepts the pattern of %s', (_, pattern) => {
    expect(() => assertTokenizerPatterns(tokenizerWith(pattern), 'tokenizer.json')).not.toThrow();
  });

  test.each([
    ['(a+)+$', 'a repetition whose body matches in several ways'],
    ['(?:a|a)*b', 'a repetition whose body matches in several ways'],
    ['(?:a|aa)+$', 'a repetition whose body matches in several ways'],
    ['([a-zA-Z]+)*!', 'a repetition whose body matches in several ways'],
    ['(?:a?){64}b', 'a repetition whose body matches in several ways'],
    ['(.*)*x', 'a repetition whose body matches in several ways'],
    ['(?=(?:\\s*\\s*)*x)y', 'a repetition whose body matches in several ways'],
    ['\\s*\\s+!', 'several endless repetitions'],
    ['.*.*.*=.*', 'several endless repetitions'],
    ['a{0,900}a{0,900}b', 'several endless repetitions'],
    [`${'a?'.repeat(40)}b`, 'more than 10000 ways to match one text'],
    [`${'(?:a|a)'.repeat(40)}b`, 'more than 10000 ways to match one text'],
    ['(.+)\\1', 'a reference to a group'],
    ['(a', 'a group that is not closed'],
  ])('refuses %s, naming it and why', (pattern, message) => {
    expect(() => assertTokenizerPatterns(tokenizerWith(pattern), 'x/tokenizer.json')).toThrow(
      `x/tokenizer.json pre_tokenizer: expected regular expressions that finish quickly on any text, got ${JSON.stringify(pattern).slice(0, 100)}`,
    );
    expect(() => assertTokenizerPatterns(tokenizerWith(pattern), 'x/tokenizer.json')).toThrow(message);
  });

  test.each([null, 'Isolated', {}, {Regex: 7}, {Glob: '*'}])(
    'refuses the pattern %j, which would be ignored',
    (pattern) => {
      expect(() =>
        assertTokenizerPatterns({normalizer: {type: 'Replace', pattern, content: ''}}, 'x'),
      ).toThrow('x normalizer: expected a pattern {"String"} or {"Regex"}, got');
    },
  );

  test('accepts patterns of plain text', () => {
    expect(() => assertTokenizerPatterns({normalizer: {pattern: {String: '(a+)+$'}}}, 'x')).not.toThrow();
  });

  test('checks normalizers and decoders too', () => {
    const evil = {type: 'Replace', pattern: {Regex: '(a+)+$'}, content: ''};
    for (const section of ['normalizer', 'decoder', 'post_processor']) {
      expect(() => assertTokenizerPatterns({[section]: evil}, 'x')).toThrow(`x ${section}: expected`);
    }
  });
});
