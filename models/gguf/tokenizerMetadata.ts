import {TfjsLoraError} from '../../quant/errors.ts';
import {show} from '../../quant/show.ts';
import {completeAddedTokens} from '../addedTokens.ts';
import type {Tokenizer} from '../tokenizer.ts';
import type {GgufMetadata} from './ggufMetadata.ts';
import {mergeScores} from './mergeScores.ts';
import {preTokenizerName} from './preTokenizerName.ts';

type Json = Record<string, unknown>;

/** Kinds of tokens, by their numbers in `tokenizer.ggml.token_type`. */
const [NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE] = [1, 2, 3, 4, 5, 6];

/** Tokens of which llama.cpp knows by their text that they end a turn. */
const KNOWN_ENDS = new Set([
  '<|eot_id|>',
  '<|im_end|>',
  '<|end|>',
  '<end_of_turn>',
  '<|endoftext|>',
  '<|eom_id|>',
  '< EOT >',
  '_< EOT >',
  '<|end_of_text|>',
  '<EOT>',
]);

/**
 * Adds the metadata of a tokenizer, as llama.cpp's converter writes it: byte-level BPE as `gpt2`, with its merges and
 * the name of its splits; BPE with byte tokens, as sentencepiece makes it, as `llama`, with scores that give the order
 * of the merges.
 *
 * @param vocabSize rows of the embedding; those without a token get a name that no text has
 * @param ends tokens that end an answer, besides the tokenizer's own
 * @throws TfjsLoraError `UNSUPPORTED` for a tokenizer that llama.cpp does not have
 */
export function addTokenizer(
  metadata: GgufMetadata,
  tokenizer: Tokenizer,
  vocabSize: number,
  ends: readonly number[],
): void {
  const {model, pre_tokenizer, normalizer} = tokenizer.files.tokenizer as {model: Json} & Json;
  if (model.type !== 'BPE' && model.type !== undefined) throw unsupported('model.type', 'BPE', model.type);
  for (const key of ['continuing_subword_prefix', 'end_of_word_suffix'])
    if (model[key]) throw unsupported(`model.${key}`, 'none', model[key]);
  const merges = mergesOf(model);
  const isByteLevel = model.byte_fallback !== true;
  metadata.text('tokenizer.ggml.model', isByteLevel ? 'gpt2' : 'llama');
  if (isByteLevel) metadata.text('tokenizer.ggml.pre', preTokenizerName(tokenizer.files.tokenizer));
  else
    metadata
      .text('tokenizer.ggml.pre', 'default')
      .flag('tokenizer.ggml.add_space_prefix', addsSpace(normalizer, pre_tokenizer));
  const {tokens, types, added} = tokensOf(tokenizer, vocabSize);
  metadata.list('tokenizer.ggml.tokens', 'string', tokens);
  metadata.list('tokenizer.ggml.token_type', 'int32', types);
  if (isByteLevel) metadata.list('tokenizer.ggml.merges', 'string', merges.map(spelled));
  else metadata.list('tokenizer.ggml.scores', 'float32', mergeScores(tokens, merges, added));
  const [begins, finishes] = addedAround(tokenizer);
  metadata
    .count('tokenizer.ggml.bos_token_id', within(tokenizer.bosTokenId, vocabSize))
    .count('tokenizer.ggml.eos_token_id', within(tokenizer.eosTokenId, vocabSize))
    .count('tokenizer.ggml.unknown_token_id', within(tokenizer.unkTokenId, vocabSize))
    .count('tokenizer.ggml.padding_token_id', within(tokenizer.padTokenId, vocabSize))
    .flag('tokenizer.ggml.add_bos_token', begins)
    .flag('tokenizer.ggml.add_eos_token', finishes)
    .text('tokenizer.chat_template', tokenizer.chatTemplate);
  const unknownEnds = ends.filter((id) => id !== tokenizer.eosTokenId && !KNOWN_ENDS.has(tokens[id]));
  if (unknownEnds.length > 2)
    throw unsupported('generation_config eos_token_id', 'two more ends at most', unknownEnds);
  metadata
    .count('tokenizer.ggml.eot_token_id', unknownEnds[0])
    .count('tokenizer.ggml.eom_token_id', unknownEnds[1]);
}

const within = (id: number | undefined, vocabSize: number): number | undefined =>
  id !== undefined && id < vocabSize ? id : undefined;

/** Returns the merges as pairs. Files list them as `a b` or, where tokens may have spaces, as `["a", "b"]`. */
function mergesOf({merges}: Json): [string, string][] {
  return ((merges ?? []) as (string | [string, string])[]).map((pair) => {
    if (typeof pair !== 'string') return pair;
    const at = pair.indexOf(' ', 1);
    return [pair.slice(0, at), pair.slice(at + 1)];
  });
}

/** Spells a merge with one space between its tokens. */
const spelled = (pair: [string, string]): string => pair.map((part) => part.replaceAll(' ', 'Ġ')).join(' ');

/** Returns the texts and kinds of all tokens, and the texts of those that were added to the vocabulary. */
function tokensOf(tokenizer: Tokenizer, vocabSize: number) {
  const added = new Map(completeAddedTokens(tokenizer.files).map((token) => [token.id, token]));
  const seen = new Set<string>();
  const types: number[] = [];
  const tokens = Array.from({length: vocabSize}, (_, id) => {
    const text = tokenizer.idToToken(id);
    const isOfVocabulary = text !== undefined && !added.has(id);
    if (text === undefined) types.push(UNUSED);
    else if (id === tokenizer.unkTokenId) types.push(UNKNOWN);
    else if (isOfVocabulary) types.push(/^<0x[\dA-F]{2}>$/i.test(text) ? BYTE : NORMAL);
    else types.push(added.get(id)?.special || looksSpecial(text) ? CONTROL : USER_DEFINED);
    const token = types[id] === USER_DEFINED ? text!.replaceAll('▁', ' ') : (text ?? `[PAD${id}]`);
    if (seen.has(token)) throw unsupported(`token ${id}`, 'each token once', token);
    seen.add(token);
    return token;
  });
  return {tokens, types, added: new Set([...added.values()].map(({content}) => content))};
}

/** Whether an added token is one of those that some models do not mark as special, though no text should have them. */
const looksSpecial = (token: string): boolean =>
  ['<pad>', '<mask>', '<2mass>', '[@BOS@]'].includes(token) ||
  /^<\|.*\|>$|^<｜.*｜>$|^<unused.*>$/s.test(token);

/** Whether the tokenizer puts a space before a text. */
function addsSpace(normalizer: unknown, preTokenizer: unknown): boolean {
  const steps = [flat(normalizer, 'normalizers'), flat(preTokenizer, 'pretokenizers')].flat();
  let adds = false;
  for (const step of steps) {
    const isSpaces = (step.pattern as Json | undefined)?.String === ' ';
    if (step.type === 'Prepend' && step.prepend === '▁') adds = true;
    else if (step.type === 'Metaspace' && (step.replacement ?? '▁') === '▁' && step.split !== true) {
      const scheme = step.prepend_scheme ?? (step.add_prefix_space === false ? 'never' : 'always');
      adds = scheme !== 'never';
    } else if (
      !(step.type === 'Replace' && isSpaces && step.content === '▁') &&
      !(step.type === 'Split' && isSpaces)
    )
      throw unsupported('normalizer and pre_tokenizer', 'spaces written as ▁ and nothing else', step);
  }
  return adds;
}

function flat(step: unknown, key: string): Json[] {
  if (step == null) return [];
  const {type, [key]: inner} = step as Json;
  return type === 'Sequence' ? (inner as unknown[]).flatMap((each) => flat(each, key)) : [step as Json];
}

/** Returns whether the tokenizer adds its beginning and its end around a text. */
function addedAround(tokenizer: Tokenizer): [begins: boolean, ends: boolean] {
  const plain = tokenizer.encode('a', {addSpecialTokens: false});
  const whole = tokenizer.encode('a');
  const at = whole.findIndex((_, i) => plain.every((id, j) => whole[i + j] === id));
  const [before, after] = [whole.slice(0, Math.max(at, 0)), whole.slice(at + plain.length)];
  const isOnly = (ids: number[], id: number | undefined) =>
    ids.length === 0 || (ids.length === 1 && ids[0] === id);
  if (at < 0 || !isOnly(before, tokenizer.bosTokenId) || !isOnly(after, tokenizer.eosTokenId))
    throw unsupported('post_processor', 'bos_token before a text and eos_token after it at most', whole);
  return [before.length > 0, after.length > 0];
}

function unsupported(key: string, expected: string, got: unknown): TfjsLoraError {
  return new TfjsLoraError(
    'UNSUPPORTED',
    `saveGguf tokenizer.json ${key}: expected ${expected} for llama.cpp, got ${show(got)}`,
  );
}
