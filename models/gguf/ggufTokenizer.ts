import type {TokenizerFiles} from '../tokenizerFiles.ts';
import type {MetadataReader} from './metadataReader.ts';
import {GGUF_PRE_TOKENIZERS} from './preTokenizers.ts';
import {vocabularyMerges} from './vocabularyMerges.ts';

type Json = Record<string, unknown>;

/** Most letters of a SentencePiece token, ten times the longest of Gemma. Each way to split it is tried. */
const MAX_PIECE_LENGTH = 1000;

/** Values of `tokenizer.ggml.token_type`. */
const [UNKNOWN, CONTROL, USER_DEFINED] = [2, 3, 4];

const NAMED_TOKENS = {
  bos_token: 'bos',
  eos_token: 'eos',
  unk_token: 'unknown',
  pad_token: 'padding',
} as const;

/**
 * Returns the tokenizer of a GGUF file as the contents of Hugging Face's files; undefined for a file without one.
 * Byte-level BPE (`gpt2`) and SentencePiece (`llama`) are read.
 *
 * @throws TfjsLoraError `UNSUPPORTED` naming another kind or an unknown split of texts; `INVALID_CONFIG` naming a
 *   missing or impossible key
 */
export function ggufTokenizer(metadata: MetadataReader): TokenizerFiles | undefined {
  const kind = metadata.text('tokenizer.ggml.model');
  if (kind === undefined || kind === 'none') return undefined;
  if (kind !== 'gpt2' && kind !== 'llama')
    throw metadata.unsupported('tokenizer.ggml.model', 'gpt2 or llama', kind);
  const tokens = metadata.required('tokenizer.ggml.tokens', metadata.texts('tokenizer.ggml.tokens'));
  const types = metadata.numbers('tokenizer.ggml.token_type') ?? [];
  const named = namedTokens(metadata, tokens);
  const vocab = vocabularyOf(metadata, tokens);
  const parts =
    kind === 'gpt2' ? byteLevelParts(metadata, vocab) : sentencePieceParts(metadata, vocab, named.unk_token);
  const isByteLevel = kind === 'gpt2';
  // llama.cpp's defaults for files without the flag.
  const addsBos =
    metadata.flag('tokenizer.ggml.add_bos_token') ?? (!isByteLevel || parts.model.ignore_merges === true);
  const addsEos = metadata.flag('tokenizer.ggml.add_eos_token') ?? false;
  const around = {bos: addsBos ? named.bos_token : undefined, eos: addsEos ? named.eos_token : undefined};
  return {
    tokenizer: {
      version: '1.0',
      truncation: null,
      padding: null,
      added_tokens: addedTokens(tokens, types),
      ...parts,
      post_processor: postProcessor(around, vocab),
    },
    config: {
      tokenizer_class: 'PreTrainedTokenizerFast',
      add_bos_token: addsBos,
      add_eos_token: addsEos,
      clean_up_tokenization_spaces: false,
      ...named,
      ...chatTemplates(metadata),
    },
  };
}

interface TokenizerParts extends Json {
  model: Json;
}

function vocabularyOf(metadata: MetadataReader, tokens: readonly string[]): Map<string, number> {
  const vocab = new Map<string, number>();
  for (const [id, token] of tokens.entries()) {
    if (vocab.has(token))
      throw metadata.wrong('tokenizer.ggml.tokens', 'each token once', `${JSON.stringify(token)} twice`);
    vocab.set(token, id);
  }
  return vocab;
}

function byteLevelParts(metadata: MetadataReader, vocab: ReadonlyMap<string, number>): TokenizerParts {
  const key = 'tokenizer.ggml.pre';
  const pre = metadata.text(key);
  const split = GGUF_PRE_TOKENIZERS.find(({names}) => pre !== undefined && names.includes(pre));
  if (!split) {
    const known = GGUF_PRE_TOKENIZERS.flatMap(({names}) => names).join(', ');
    throw metadata.unsupported(key, `one of ${known}`, pre ?? 'none');
  }
  const lines = metadata.required('tokenizer.ggml.merges', metadata.texts('tokenizer.ggml.merges'));
  const merges = lines.map((line) => {
    const space = line.indexOf(' ', 1);
    if (space < 0)
      throw metadata.wrong('tokenizer.ggml.merges', 'two tokens with a space between', JSON.stringify(line));
    return [line.slice(0, space), line.slice(space + 1)];
  });
  return {
    normalizer: split.normalizer,
    pre_tokenizer: split.preTokenizer,
    decoder: {type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true},
    model: bpe(vocab, merges, {ignore_merges: split.ignoreMerges}),
  };
}

function sentencePieceParts(
  metadata: MetadataReader,
  vocab: ReadonlyMap<string, number>,
  unknown: string | undefined,
): TokenizerParts {
  const isGemma = metadata.text('general.architecture')?.startsWith('gemma');
  const addsSpace = metadata.flag('tokenizer.ggml.add_space_prefix') ?? true;
  const replace = {type: 'Replace', pattern: {String: ' '}, content: '▁'};
  const restore = {type: 'Replace', pattern: {String: '▁'}, content: ' '};
  const own = isGemma ? withSpacesMarked(vocab) : vocab;
  for (const piece of own.keys()) {
    if (piece.length <= MAX_PIECE_LENGTH) continue;
    throw metadata.wrong('tokenizer.ggml.tokens', `at most ${MAX_PIECE_LENGTH} letters`, `${piece.length}`);
  }
  const ids = [...own.values()];
  // Gemma's merges are in the order of its tokens, which its scores do not follow.
  const scores = isGemma
    ? ids.map((id) => -id)
    : metadata.required('tokenizer.ggml.scores', metadata.numbers('tokenizer.ggml.scores'));
  if (scores.length < ids.length)
    throw metadata.wrong(
      'tokenizer.ggml.scores',
      `a score for each of ${ids.length} tokens`,
      String(scores.length),
    );
  const decoders = [restore, {type: 'ByteFallback'}, {type: 'Fuse'}];
  return {
    normalizer: addsSpace
      ? {type: 'Sequence', normalizers: [{type: 'Prepend', prepend: '▁'}, replace]}
      : replace,
    pre_tokenizer: null,
    decoder: {
      type: 'Sequence',
      decoders: addsSpace ? [...decoders, {type: 'Strip', content: ' ', start: 1, stop: 0}] : decoders,
    },
    model: bpe(own, vocabularyMerges(own, scores), {
      unk_token: unknown ?? null,
      fuse_unk: true,
      byte_fallback: true,
    }),
  };
}

/** Returns Gemma's vocabulary with runs of spaces as SentencePiece writes them; its files have them as spaces. */
function withSpacesMarked(vocab: ReadonlyMap<string, number>): Map<string, number> {
  return new Map(
    [...vocab].map(([token, id]) => [/^ {2,}$/.test(token) ? '▁'.repeat(token.length) : token, id]),
  );
}

function bpe(
  vocab: ReadonlyMap<string, number>,
  merges: readonly (readonly string[])[],
  options: Json,
): Json {
  return {
    type: 'BPE',
    dropout: null,
    unk_token: null,
    continuing_subword_prefix: null,
    end_of_word_suffix: null,
    fuse_unk: false,
    byte_fallback: false,
    ignore_merges: false,
    ...options,
    vocab: Object.fromEntries(vocab),
    merges,
  };
}

/** Lists the tokens that texts are split at before anything else. */
function addedTokens(tokens: readonly string[], types: readonly number[]): Json[] {
  const flags = {single_word: false, lstrip: false, rstrip: false, normalized: false};
  return tokens.flatMap((content, id) => {
    const type = types[id];
    if (type !== CONTROL && type !== USER_DEFINED && type !== UNKNOWN) return [];
    return [{id, content, ...flags, special: type !== USER_DEFINED}];
  });
}

/** Returns the special tokens by the names that `tokenizer_config.json` has for them. */
function namedTokens(
  metadata: MetadataReader,
  tokens: readonly string[],
): Partial<Record<keyof typeof NAMED_TOKENS, string>> {
  const found = Object.entries(NAMED_TOKENS).flatMap(([name, inFile]) => {
    const key = `tokenizer.ggml.${inFile}_token_id`;
    const id = metadata.count(key);
    if (id === undefined) return [];
    if (id >= tokens.length) throw metadata.wrong(key, `an id below ${tokens.length}`, String(id));
    return [[name, tokens[id]]];
  });
  return Object.fromEntries(found);
}

function postProcessor(
  {bos, eos}: {bos?: string; eos?: string},
  vocab: ReadonlyMap<string, number>,
): Json | null {
  if (bos === undefined && eos === undefined) return null;
  const special = (token: string | undefined, type: number) =>
    token === undefined ? [] : [{SpecialToken: {id: token, type_id: type}}];
  const around = (text: string, type: number) => [
    ...special(bos, type),
    {Sequence: {id: text, type_id: type}},
    ...special(eos, type),
  ];
  const used = [bos, eos].filter((token) => token !== undefined);
  return {
    type: 'TemplateProcessing',
    single: around('A', 0),
    pair: [...around('A', 0), ...around('B', 1)],
    special_tokens: Object.fromEntries(
      used.map((token) => [token, {id: token, ids: [vocab.get(token)], tokens: [token]}]),
    ),
  };
}

/** Returns the `chat_template` of `tokenizer_config.json`: one text, or several with names. */
function chatTemplates(metadata: MetadataReader): Json {
  const template = metadata.text('tokenizer.chat_template');
  const names = metadata.texts('tokenizer.chat_templates') ?? [];
  if (names.length === 0) return template === undefined ? {} : {chat_template: template};
  const named = names.map((name) => {
    const key = `tokenizer.chat_template.${name}`;
    return {name, template: metadata.required(key, metadata.text(key))};
  });
  return {chat_template: [...(template === undefined ? [] : [{name: 'default', template}]), ...named]};
}
