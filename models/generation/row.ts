import {TfjsLoraError} from '../../quant/errors.ts';
import {assertKnownOptions} from '../../quant/knownOptions.ts';
import {show} from '../../quant/show.ts';
import {type ResolvedGenerationConfig, resolveGenerationConfig} from '../generationConfig.ts';
import {namesOfRows} from '../namesOfRows.ts';
import type {Tokenizer} from '../tokenizer.ts';
import {
  GENERATE_OPTIONS,
  type GenerateOptions,
  type GenerativeModel,
  type Prompt,
  requireTokenizer,
  type StreamTokensOptions,
} from './generateOptions.ts';
import type {AutomatonState} from './json/byteAutomaton.ts';
import {TokenConstraint} from './json/tokenConstraint.ts';
import {likelihoodOf} from './likelihood.ts';
import {processLogits} from './logitsProcessors.ts';
import {
  argMax,
  assertFiniteLogits,
  createRandomSource,
  type RandomSource,
  sampleCategorical,
} from './sampler.ts';
import {TextStreamer} from './textStreamer.ts';

/** One sequence of the batch. */
export interface Row {
  /** Index in the caller's list. */
  index: number;
  /** Prompt and generated tokens, without padding. */
  ids: number[];
  newIds: number[];
  settings: ResolvedGenerationConfig;
  /** Maximum number of tokens that it may still get. */
  room: number;
  random: RandomSource;
  streamer?: TextStreamer;
  /** The constraint that the text must meet, and its state so far. */
  constraint?: {tokens: TokenConstraint; state: AutomatonState};
  isFinished: boolean;
  /** Name of its adapter. Default: the active ones. */
  adapterName?: string;
  /** Number of alternatives to report. */
  alternatives?: number;
  /** Probabilities to report for the last token. */
  likelihood?: Pick<GeneratedToken, 'logProbability' | 'alternatives'>;
}

/** A token of `streamTokens`. */
export interface GeneratedToken {
  id: number;
  /** Text that became certain with the token. It is often empty, because a character may take several tokens. */
  piece: string;
  /** Reason for the end, on the last token: `stop` at an end-of-sequence token or stop string, `length` at a limit. */
  finishReason?: 'stop' | 'length';
  /** Natural logarithm of the probability that the model gave the token, before any setting; with `alternatives`. */
  logProbability?: number;
  /** The likeliest tokens in its place, the likeliest first; with `alternatives`. */
  alternatives?: {id: number; logProbability: number}[];
}

/**
 * Checks prompts and options, and returns a row for each prompt.
 *
 * @param tokenizer if given, every row also gets its text, not only its ids
 */
export function createRows(
  model: GenerativeModel,
  prompts: Prompt[],
  options: GenerateOptions,
  tokenizer?: Tokenizer,
): Row[] {
  assertKnownOptions('generate', options, GENERATE_OPTIONS);
  const {onProgress, signal, jsonSchema, adapterNames, ...given} = options;
  const settings = resolveGenerationConfig(model.generationConfig ?? {}, given);
  signal?.throwIfAborted();
  // The call has one seed, from which rows derive theirs.
  settings.seed ??= Math.random();
  if (prompts.length === 0) {
    throw new TfjsLoraError('INVALID_ARGUMENT', 'prompts: expected at least one, got an empty list');
  }
  const tokens =
    jsonSchema === undefined ? undefined : new TokenConstraint(jsonSchema, requireTokenizer(model));
  if (tokens && settings.minNewTokens > 0) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      'generate minNewTokens: expected none beside jsonSchema, which says where the answer ends',
    );
  }
  const names = adapterNames === undefined ? [] : namesOfRows('generate', adapterNames, prompts.length);
  const streamTokenizer = settings.stopStrings.length > 0 ? requireTokenizer(model) : tokenizer;
  return prompts.map((prompt, index) => {
    assertPromptKind(prompt, index);
    const promptIds = typeof prompt === 'string' ? requireTokenizer(model).encode(prompt) : [...prompt];
    assertPrompt(promptIds, index, model);
    return {
      index,
      ids: promptIds,
      newIds: [],
      settings,
      room: roomFor(promptIds.length, index, settings, model),
      random: createRandomSource(settings.seed, index),
      streamer:
        streamTokenizer && new TextStreamer(streamTokenizer, {promptIds, stopStrings: settings.stopStrings}),
      constraint: tokens && {tokens, state: tokens.start},
      adapterName: names[index],
      isFinished: false,
    };
  });
}

/** Returns the row of one prompt, which gets its text too. */
export function createRow(
  model: GenerativeModel,
  prompt: Prompt,
  {alternatives, ...options}: StreamTokensOptions,
): Row {
  const [row] = createRows(model, [prompt], options, requireTokenizer(model));
  if (alternatives !== undefined && !(Number.isSafeInteger(alternatives) && alternatives >= 0)) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `streamTokens alternatives: expected a whole number of 0 or more, got ${show(alternatives)}`,
    );
  }
  row.alternatives = alternatives;
  return row;
}

/** Whether a row's next token is that of the largest unchanged logit. */
export function takesLargest({settings, newIds, constraint, alternatives}: Row): boolean {
  const {doSample, repetitionPenalty, minNewTokens} = settings;
  return (
    !constraint &&
    alternatives === undefined &&
    !doSample &&
    repetitionPenalty === 1 &&
    newIds.length >= minNewTokens
  );
}

/** Chooses a row's next token from its logits, which it changes. */
export function chooseToken(row: Row, scores: Float32Array): number {
  const {index, ids, newIds, settings, random, constraint, alternatives} = row;
  assertFiniteLogits(scores, index);
  const unchanged = alternatives === undefined ? undefined : scores.slice();
  constraint?.tokens.mask(scores, constraint.state, settings.eosTokenIds);
  processLogits(scores, {ids, newTokens: newIds.length}, settings);
  const id = settings.doSample ? sampleCategorical(scores, random) : argMax(scores);
  row.likelihood = unchanged && likelihoodOf(unchanged, id, alternatives as number);
  return id;
}

/** Whether a row's text is what it must become, with no end token to come. */
const isComplete = ({constraint, settings}: Row): boolean =>
  constraint !== undefined && settings.eosTokenIds.length === 0 && constraint.tokens.isOver(constraint.state);

/** Appends a row's next token. Returns the text that became certain. */
export function advance(row: Row, id: number): string {
  const {settings, streamer, constraint} = row;
  if (constraint) constraint.state = constraint.tokens.after(constraint.state, id);
  row.ids.push(id);
  row.newIds.push(id);
  let piece = streamer?.push(id) ?? '';
  row.isFinished =
    settings.eosTokenIds.includes(id) ||
    row.newIds.length >= row.room ||
    (streamer?.isStopped ?? false) ||
    isComplete(row);
  if (row.isFinished) piece += streamer?.end() ?? '';
  return piece;
}

/**
 * Returns a row's newest token.
 *
 * @param piece the text that became certain with it
 */
export function newestToken(row: Row, piece: string): GeneratedToken {
  const {newIds, settings, streamer, isFinished, likelihood} = row;
  const id = newIds[newIds.length - 1];
  const isStopped = settings.eosTokenIds.includes(id) || streamer?.isStopped || isComplete(row);
  return {id, piece, ...(isFinished && {finishReason: isStopped ? 'stop' : 'length'}), ...likelihood};
}

function assertPromptKind(prompt: unknown, index: number): void {
  const isMessages = Array.isArray(prompt) && typeof Object(prompt[0]).role === 'string';
  if (typeof prompt === 'string' || ArrayBuffer.isView(prompt) || (Array.isArray(prompt) && !isMessages))
    return;
  throw new TfjsLoraError(
    'INVALID_ARGUMENT',
    `prompt ${index}: expected a text or token ids, got ${show(prompt)}. Answer messages with chat. ` +
      'To stream the answer, pass model.tokenizer.encodeChat(messages, {addGenerationPrompt: true}).',
  );
}

function assertPrompt(ids: number[], index: number, {config: {vocabSize}}: GenerativeModel): void {
  if (ids.length === 0) {
    throw new TfjsLoraError('INVALID_ARGUMENT', `prompt ${index}: expected at least one token, got none`);
  }
  const at = ids.findIndex((id) => !Number.isInteger(id) || id < 0 || id >= vocabSize);
  if (at === -1) return;
  throw new TfjsLoraError(
    'VOCABULARY_MISMATCH',
    `prompt ${index}, token ${at}: expected an id of 0 to ${vocabSize - 1} (the model's vocab_size is ${vocabSize}), ` +
      `got ${ids[at]}. Use the tokenizer that the model was trained with.`,
  );
}

/** Returns the number of tokens that a prompt of this length may get. */
function roomFor(
  promptLength: number,
  index: number,
  {maxNewTokens = Infinity, maxLength = Infinity}: ResolvedGenerationConfig,
  {config: {maxPositionEmbeddings}}: GenerativeModel,
): number {
  const longest = Math.min(maxLength, maxPositionEmbeddings);
  if (promptLength >= longest) {
    const limit = longest === maxLength ? 'maxLength' : "the model's max_position_embeddings";
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `prompt ${index}: expected fewer than ${longest} tokens (${limit}), got ${promptLength}. Shorten the prompt.`,
    );
  }
  return Math.min(maxNewTokens, longest - promptLength);
}
