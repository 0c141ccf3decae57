import {mkdirSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {fileURLToPath} from 'node:url';
import {PretrainingDocuments} from './pretrainingDocuments.ts';

/**
 * Trains the quickstart's tokenizer: byte-level byte-pair encoding (Sennrich et al. 2016) in the layout of Llama 3's
 * own `tokenizer.json`, so that `@huggingface/tokenizers` and Python's `tokenizers` and `transformers` can read it.
 * `npx tsx examples/quickstart/trainTokenizer.ts` writes `examples/quickstart/model/tokenizer*.json` again. A seed
 * makes the files the same, byte for byte.
 */

/** The special tokens of Llama 3 that a base model and a chat need. They follow the learnt vocabulary. */
export const SPECIAL_TOKENS = [
  '<|begin_of_text|>',
  '<|end_of_text|>',
  '<|start_header_id|>',
  '<|end_header_id|>',
  '<|eot_id|>',
  '<|finetune_right_pad_id|>',
] as const;

/**
 * Pattern that splits text before merging, similar to Llama 3's: English contractions; a word with one character before
 * it; up to three digits; punctuation; line ends; other white space. No merge crosses a split.
 */
export const SPLIT_PATTERN =
  "'(?:[sSdDmMtT]|ll|LL|ve|VE|re|RE)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

/** The chat template in Jinja: Llama 3's format without its dated system message. */
export const CHAT_TEMPLATE =
  '{{ bos_token }}{% for message in messages %}' +
  "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}" +
  '{% endfor %}' +
  "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}";

/** A learnt vocabulary: tokens in the order of their ids, and merges in the order in which they were learnt. */
export interface BytePairVocabulary {
  tokens: string[];
  merges: [left: string, right: string][];
}

/**
 * Returns the 256 characters that represent bytes in byte-level vocabularies, in the order of the bytes. Printable
 * Latin-1 bytes represent themselves, and the others are moved to U+0100 and up (GPT-2's table, which all readers of
 * the format use).
 */
export function byteCharacters(): string[] {
  let moved = 0;
  return Array.from({length: 256}, (_, byte) => {
    const isPrintable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    return String.fromCodePoint(isPrintable ? byte : 256 + moved++);
  });
}

/**
 * Learns merges from texts: repeatedly, the most frequent pair of adjacent tokens becomes one token. Of pairs with
 * equal counts, the first in alphabetical order is merged, so that the result does not depend on the order of the
 * texts.
 *
 * @param texts plain texts; special tokens in them are skipped
 * @param vocabularySize final number of tokens without special tokens; at least 256
 */
export function learnBytePairs(texts: Iterable<string>, vocabularySize: number): BytePairVocabulary {
  const characters = byteCharacters();
  const words = [...wordCounts(texts)].map(([word, count]) => ({
    pieces: [...Buffer.from(word, 'utf8')].map((byte) => characters[byte]),
    count,
  }));
  const tokens = [...characters].sort((a, b) => (a < b ? -1 : 1));
  const merges: [string, string][] = [];
  while (tokens.length < vocabularySize) {
    const pairs = new Map<string, number>();
    for (const {pieces, count} of words) {
      for (let i = 0; i + 1 < pieces.length; i++) {
        const pair = `${pieces[i]} ${pieces[i + 1]}`;
        pairs.set(pair, (pairs.get(pair) ?? 0) + count);
      }
    }
    let best = '';
    let bestCount = 1; // a pair that occurs once saves nothing
    for (const [pair, count] of pairs) {
      if (count > bestCount || (count === bestCount && count > 1 && pair < best)) {
        best = pair;
        bestCount = count;
      }
    }
    if (best === '') break;
    const [left, right] = best.split(' ');
    merges.push([left, right]);
    tokens.push(left + right);
    for (const word of words) word.pieces = mergePair(word.pieces, left, right);
  }
  return {tokens, merges};
}

function mergePair(pieces: string[], left: string, right: string): string[] {
  let at = pieces.indexOf(left);
  if (at < 0) return pieces;
  const merged = pieces.slice(0, at);
  for (; at < pieces.length; at++) {
    if (pieces[at] === left && pieces[at + 1] === right) {
      merged.push(left + right);
      at++;
    } else merged.push(pieces[at]);
  }
  return merged;
}

function wordCounts(texts: Iterable<string>): Map<string, number> {
  const special = new RegExp(SPECIAL_TOKENS.map((token) => token.replaceAll('|', '\\|')).join('|'), 'g');
  const split = new RegExp(SPLIT_PATTERN, 'gu');
  const counts = new Map<string, number>();
  for (const text of texts) {
    for (const part of text.split(special)) {
      for (const word of part.match(split) ?? []) counts.set(word, (counts.get(word) ?? 0) + 1);
    }
  }
  return counts;
}

/** Returns `tokenizer.json` for a learnt vocabulary followed by the special tokens. */
export function tokenizerFile({tokens, merges}: BytePairVocabulary): object {
  const idOfBegin = tokens.length;
  const begin = SPECIAL_TOKENS[0];
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: SPECIAL_TOKENS.map((content, index) => ({
      id: tokens.length + index,
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true,
    })),
    normalizer: null,
    pre_tokenizer: {
      type: 'Sequence',
      pretokenizers: [
        {type: 'Split', pattern: {Regex: SPLIT_PATTERN}, behavior: 'Isolated', invert: false},
        {type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false},
      ],
    },
    post_processor: {
      type: 'TemplateProcessing',
      single: [{SpecialToken: {id: begin, type_id: 0}}, {Sequence: {id: 'A', type_id: 0}}],
      pair: [
        {SpecialToken: {id: begin, type_id: 0}},
        {Sequence: {id: 'A', type_id: 0}},
        {SpecialToken: {id: begin, type_id: 1}},
        {Sequence: {id: 'B', type_id: 1}},
      ],
      special_tokens: {[begin]: {id: begin, ids: [idOfBegin], tokens: [begin]}},
    },
    decoder: {type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true},
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges: merges.map(([left, right]) => `${left} ${right}`),
    },
  };
}

/** Returns `tokenizer_config.json`, with the roles of the special tokens and the chat template. */
export function tokenizerConfig(modelMaxLength: number): object {
  const [bosToken, , , , eosToken, padToken] = SPECIAL_TOKENS;
  return {
    bos_token: bosToken,
    eos_token: eosToken,
    pad_token: padToken,
    clean_up_tokenization_spaces: false,
    model_input_names: ['input_ids', 'attention_mask'],
    model_max_length: modelMaxLength,
    tokenizer_class: 'PreTrainedTokenizerFast',
    chat_template: CHAT_TEMPLATE,
  };
}

export const VOCABULARY_SIZE = 2048;
export const MODEL_MAX_LENGTH = 512;

/** Generates the texts from which the vocabulary is learnt, a sample of the base model's training data. */
export function* tokenizerTexts(): Generator<string> {
  const documents = new PretrainingDocuments(1);
  for (let i = 0; i < 4000; i++) {
    const {context, continuation} = documents.next();
    yield context + continuation;
    if (i % 4 > 0) continue;
    const journal = documents.journal();
    yield journal.context + journal.continuation;
  }
}

/** Trains the tokenizer and returns the text of its two files. */
export function trainTokenizer(): {tokenizer: string; config: string} {
  const vocabulary = learnBytePairs(tokenizerTexts(), VOCABULARY_SIZE - SPECIAL_TOKENS.length);
  return {
    tokenizer: `${JSON.stringify(tokenizerFile(vocabulary), null, 2)}\n`,
    config: `${JSON.stringify(tokenizerConfig(MODEL_MAX_LENGTH), null, 2)}\n`,
  };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const folder = join(import.meta.dirname, 'model');
  const {tokenizer, config} = trainTokenizer();
  mkdirSync(folder, {recursive: true});
  writeFileSync(join(folder, 'tokenizer.json'), tokenizer);
  writeFileSync(join(folder, 'tokenizer_config.json'), config);
  console.log(`${VOCABULARY_SIZE} tokens → ${folder}`);
}
