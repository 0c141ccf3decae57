import type {TokenizerFiles} from './tokenizerFiles.ts';

/** An entry of `added_tokens` in `tokenizer.json`. */
interface AddedToken {
  id: number;
  content: string;
  special: boolean;
  [flag: string]: unknown;
}

/** Special tokens, in the order in which transformers adds missing ones. */
const NAMED = ['bos_token', 'eos_token', 'unk_token', 'sep_token', 'pad_token', 'cls_token', 'mask_token'];
/** Tokens that are never added, because a model that was not trained with them neither begins nor ends with them. */
const NEVER_NEW = new Set(['bos_token', 'eos_token']);

/**
 * Completes a tokenizer's added tokens with those that only its configs name. These get the next ids after the
 * vocabulary, as in transformers 5 (`TokenizersBackend.__init__`).
 */
export function completeAddedTokens({
  tokenizer,
  config,
  specialTokensMap,
  addedTokens,
}: TokenizerFiles): AddedToken[] {
  const tokens = [...((tokenizer.added_tokens as AddedToken[] | null | undefined) ?? [])];
  const known = new Set(tokens.map(({content}) => content));
  const {vocab} = tokenizer.model as {vocab: Vocabulary};
  let nextId = tokens.reduce((next, {id}) => Math.max(next, id + 1), sizeOf(vocab));
  const add = (token: unknown, flags: {special?: boolean}, mayBeNew = true) => {
    const content = contentOf(token);
    if (content === undefined || known.has(content)) return;
    const id = idIn(vocab, content);
    if (id === undefined && !mayBeNew) return;
    known.add(content);
    const given = typeof token === 'object' ? token : {};
    tokens.push({...DEFAULT_FLAGS, ...given, ...flags, id: id ?? nextId++, content} as AddedToken);
  };

  for (const token of listed(config.added_tokens_decoder)) add(token, {});
  const named = NAMED.map((name) => ({name, token: config[name] ?? specialTokensMap?.[name]}));
  const listedExtra = config.extra_special_tokens ?? config.additional_special_tokens;
  const extra: unknown[] = Array.isArray(listedExtra) ? listedExtra : [];
  if (config.added_tokens_decoder === undefined) {
    const specials = new Set([...named.map(({token}) => token), ...extra].map(contentOf));
    const byId = Object.entries(addedTokens ?? {}).sort(([, a], [, b]) => Number(a) - Number(b));
    for (const [content] of byId) {
      const special = specials.has(content);
      add({content, normalized: !special}, {special});
    }
  }
  for (const {name, token} of named) add(token, {special: true}, !NEVER_NEW.has(name));
  for (const token of extra) add(token, {special: true});
  return tokens;
}

/**
 * Returns the added tokens with further ones, each once. One that is there is replaced only by a special one.
 *
 * @param vocabulary finds the id of a token that the vocabulary has, and the first id beyond it
 */
export function withAddedTokens(
  added: readonly AddedToken[],
  tokens: readonly string[],
  special: boolean,
  {idOf, nextId}: {idOf(token: string): number | undefined; nextId: number},
): AddedToken[] {
  const byContent = new Map(added.map((token) => [token.content, token]));
  let next = nextId;
  for (const content of tokens) {
    const known = byContent.get(content);
    if (known && (known.special || !special)) continue;
    const id = known?.id ?? idOf(content) ?? next++;
    byContent.set(content, {...DEFAULT_FLAGS, ...known, normalized: !special, special, id, content});
  }
  return [...byContent.values()].sort((a, b) => a.id - b.id);
}

const DEFAULT_FLAGS = {single_word: false, lstrip: false, rstrip: false, normalized: false, special: false};

/** Lists the tokens of an `added_tokens_decoder` by their ids. */
function listed(decoder: unknown): unknown[] {
  if (typeof decoder !== 'object' || decoder === null) return [];
  return Object.entries(decoder)
    .sort(([a], [b]) => Number(a) - Number(b))
    .map(([, token]) => token);
}

/** Returns the text of a token, which configs write as a string or as an object with its `content`. */
export function contentOf(token: unknown): string | undefined {
  const content = typeof token === 'string' ? token : (token as {content?: unknown} | null)?.content;
  return typeof content === 'string' ? content : undefined;
}

/** Vocabulary of a tokenizer's model: an object of ids, or Unigram's list of pieces and scores. */
type Vocabulary = Record<string, number> | [piece: string, score: number][];

const sizeOf = (vocab: Vocabulary): number =>
  Array.isArray(vocab) ? vocab.length : Object.keys(vocab).length;

function idIn(vocab: Vocabulary, content: string): number | undefined {
  if (!Array.isArray(vocab)) return Object.hasOwn(vocab, content) ? vocab[content] : undefined;
  const id = vocab.findIndex(([piece]) => piece === content);
  return id < 0 ? undefined : id;
}
