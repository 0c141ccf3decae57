type Json = Record<string, unknown>;

/** How a byte-level BPE tokenizer splits a text before it merges, which GGUF files only name. */
export interface GgufPreTokenizer {
  /** Names that `tokenizer.ggml.pre` has for it. The first is written. */
  readonly names: readonly string[];
  /** `pre_tokenizer` in `tokenizer.json`. */
  readonly preTokenizer: Json;
  /** `normalizer` in `tokenizer.json`. */
  readonly normalizer: Json | null;
  /** Whether a word that is a whole token stays whole, whatever the merges say. */
  readonly ignoreMerges: boolean;
}

const byteLevel = (useRegex: boolean): Json => ({
  type: 'ByteLevel',
  add_prefix_space: false,
  trim_offsets: true,
  use_regex: useRegex,
});

const sequence = (first: Json, useRegex = false): Json => ({
  type: 'Sequence',
  pretokenizers: [first, byteLevel(useRegex)],
});

const split = (...alternatives: string[]): Json =>
  sequence({type: 'Split', pattern: {Regex: alternatives.join('|')}, behavior: 'Isolated', invert: false});

const CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const WORD = '[^\\r\\n\\p{L}\\p{N}]?\\p{L}+';
const SPACES = ['\\s*[\\r\\n]+', '\\s+(?!\\S)', '\\s+'];
const SYMBOLS = ' ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*';
const SYMBOLS_AND_SLASHES = ' ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*';
const UPPER = '[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]';
const LOWER = '[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]';
/** Words that end before a capital that follows a small letter. */
const casedWords = (end: string): string[] => [
  `[^\\r\\n\\p{L}\\p{N}]?${UPPER}*${LOWER}+${end}`,
  `[^\\r\\n\\p{L}\\p{N}]?${UPPER}+${LOWER}*${end}`,
];

const LLAMA3 = split(CONTRACTIONS, WORD, '\\p{N}{1,3}', SYMBOLS, ...SPACES);

/** The splits of llama.cpp (`llama-vocab.cpp`) whose tokenizers in Hugging Face's format are known. */
export const GGUF_PRE_TOKENIZERS: readonly GgufPreTokenizer[] = [
  {
    names: ['llama-bpe', 'llama3', 'llama-v3'],
    preTokenizer: LLAMA3,
    normalizer: null,
    ignoreMerges: true,
  },
  {names: ['dbrx', 'smaug-bpe'], preTokenizer: LLAMA3, normalizer: null, ignoreMerges: false},
  {
    names: ['smollm'],
    preTokenizer: sequence({type: 'Digits', individual_digits: true}, true),
    normalizer: null,
    ignoreMerges: false,
  },
  {
    names: ['qwen2', 'deepseek-r1-qwen'],
    preTokenizer: split(CONTRACTIONS, WORD, '\\p{N}', SYMBOLS, ...SPACES),
    normalizer: {type: 'NFC'},
    ignoreMerges: false,
  },
  {
    names: ['tekken'],
    preTokenizer: split(...casedWords(''), '\\p{N}', SYMBOLS_AND_SLASHES, ...SPACES),
    normalizer: null,
    ignoreMerges: true,
  },
  {
    names: ['gpt-4o'],
    preTokenizer: split(...casedWords(`${CONTRACTIONS}?`), '\\p{N}{1,3}', SYMBOLS_AND_SLASHES, ...SPACES),
    normalizer: null,
    ignoreMerges: false,
  },
  {names: ['gpt-2', 'phi-2'], preTokenizer: byteLevel(true), normalizer: null, ignoreMerges: false},
];
