import type {KeyValueCache} from '../../layers/keyValueCache.ts';
import {hasKernel} from '../../layers/ops/dispatch.ts';
import {greedyChoiceOp} from '../../layers/ops/greedyChoice.ts';
import {TfjsLoraError} from '../../quant/errors.ts';
import {assertKnownOptions, type OptionNames} from '../../quant/knownOptions.ts';
import {show} from '../../quant/show.ts';
import {warn} from '../../quant/warn.ts';
import {
  GENERATION_SETTINGS,
  type GenerationConfig,
  type ResolvedGenerationConfig,
  resolveGenerationConfig,
} from '../generationConfig.ts';
import {letSignalsThrough} from '../letSignalsThrough.ts';
import {namesOfRows} from '../namesOfRows.ts';
import {
  CHAT_TEMPLATE_OPTIONS,
  type ChatMessage,
  type ChatTemplateOptions,
  type Tokenizer,
} from '../tokenizer.ts';
import {type DecodedAdapters, type DecodedBatch, type DecodedModel, Decoder} from './decoder.ts';
import type {AutomatonState} from './json/byteAutomaton.ts';
import type {JsonSchema} from './json/jsonGrammar.ts';
import {TokenConstraint} from './json/tokenConstraint.ts';
import {likelihoodOf} from './likelihood.ts';
import {processLogits} from './logitsProcessors.ts';
import {
  argMax,
  assertFiniteLogits,
  createRandomSource,
  finiteChoice,
  type RandomSource,
  sampleCategorical,
} from './sampler.ts';
import {TextStreamer} from './textStreamer.ts';

/** The part of a model that generation needs. */
export interface GenerativeModel extends DecodedModel {
  newCache(): KeyValueCache;
  /**
   * Prepares passes in which each row has its own adapter, if the model has adapters.
   *
   * @param names the adapter of each row
   */
  rowAdapters?(names: readonly string[]): DecodedAdapters & {dispose(): void};
  readonly tokenizer?: Tokenizer;
  readonly generationConfig?: GenerationConfig;
  readonly config: {readonly vocabSize: number; readonly maxPositionEmbeddings: number};
}

/** How far a generation is. */
export interface GenerateProgress {
  /** Number of prompts that are answered. */
  done: number;
  /** Number of all prompts. */
  total: number;
  /** Number of tokens generated so far, for all prompts. */
  newTokens: number;
}

/** Settings of a generation, and options for watching and stopping it. */
export interface GenerateOptions extends Omit<GenerationConfig, 'otherKeys'> {
  /** Called after each token of the batch. */
  onProgress?: (progress: GenerateProgress) => void;
  /** Stops the generation before the next token, with the signal's reason as the error. */
  signal?: AbortSignal;
  /**
   * JSON schema that the answer fits, unless `maxNewTokens` cuts it off: tokens that would break it are not chosen.
   * `true` stands for any JSON value. Default: any text.
   */
  jsonSchema?: JsonSchema;
  /**
   * Name of the adapter for each prompt, or one name for all; `__base__` means no adapter. Default: the active adapters.
   */
  adapterNames?: string | readonly string[];
}
/** The options of {@link generate}. */
export const GENERATE_OPTIONS = {
  ...GENERATION_SETTINGS,
  onProgress: true,
  signal: true,
  jsonSchema: true,
  adapterNames: true,
} satisfies OptionNames<GenerateOptions>;

export type ChatOptions = GenerateOptions & Omit<ChatTemplateOptions, 'addGenerationPrompt'>;

const {addGenerationPrompt, ...TEMPLATE_OPTIONS} = CHAT_TEMPLATE_OPTIONS;
const CHAT_OPTIONS = {...GENERATE_OPTIONS, ...TEMPLATE_OPTIONS} satisfies OptionNames<ChatOptions>;

type AfterToken = () => void | Promise<void>;

/** A text, or its token ids. */
export type Prompt = string | number[];

/**
 * Continues one prompt or a batch of prompts.
 *
 * `options` override the model's `generation_config.json`, which overrides transformers' defaults. A sequence ends at
 * an end-of-sequence token, at a stop string, after `maxNewTokens`, or when it fills the model's
 * `maxPositionEmbeddings` (transformers would continue past the positions that the model knows).
 *
 * Each call makes its own key-value cache and frees it when it ends, also after an error.
 *
 * @param prompts texts, which are encoded with their special tokens (`<|begin_of_text|>`), or ids, which are used as
 *   they are
 * @returns the new text only, without special tokens; a list for a list of prompts
 * @throws TfjsLoraError `INVALID_ARGUMENT` for an unknown or impossible option, no prompt, an empty one, or one that
 *   leaves no room below `maxPositionEmbeddings`; `VOCABULARY_MISMATCH` for ids the model does not have;
 *   `UNSUPPORTED` when the model has no tokenizer; `NON_FINITE` when the logits are not finite; the signal's reason;
 *   `UNKNOWN_ADAPTER`, and `INVALID_ARGUMENT` for `adapterNames` of another number than prompts or with merged adapters
 */
export function generate(model: GenerativeModel, prompts: Prompt, options?: GenerateOptions): Promise<string>;
export function generate(
  model: GenerativeModel,
  prompts: string[] | number[][],
  options?: GenerateOptions,
): Promise<string[]>;
export async function generate(
  model: GenerativeModel,
  prompts: Prompt | string[] | number[][],
  options: GenerateOptions = {},
): Promise<string | string[]> {
  warnOfGreedyChoice(model, options);
  const rows = await finishedRows(model, prompts, options, requireTokenizer(model));
  const texts = rows.map(({streamer}) => (streamer as TextStreamer).text);
  return isBatch(prompts) ? texts : texts[0];
}

/**
 * Generates as {@link generate} does, but returns token ids: only the new ones, with the end-of-sequence token that
 * ended them. Needs no tokenizer when the prompts are ids and there are no stop strings.
 *
 * @param afterToken function that is awaited after each token of the batch; an error in it ends the generation
 */
export function generateIds(
  model: GenerativeModel,
  prompts: Prompt,
  options?: GenerateOptions,
  afterToken?: AfterToken,
): Promise<number[]>;
export function generateIds(
  model: GenerativeModel,
  prompts: string[] | number[][],
  options?: GenerateOptions,
  afterToken?: AfterToken,
): Promise<number[][]>;
export async function generateIds(
  model: GenerativeModel,
  prompts: Prompt | string[] | number[][],
  options: GenerateOptions = {},
  afterToken?: AfterToken,
): Promise<number[] | number[][]> {
  const rows = await finishedRows(model, prompts, options, undefined, afterToken);
  const ids = rows.map((row) => row.newIds);
  return isBatch(prompts) ? ids : ids[0];
}

/**
 * Generates as {@link generate} does for one prompt, and yields the text piece by piece; the pieces add up to the
 * result of `generate`. The key-value cache is freed when the loop ends, also early; without a loop, call the
 * generator's `return()`. The model must not change until then: a pass that a backend replays does not notice an
 * adapter switched in between.
 *
 * @throws TfjsLoraError as {@link generate}, when the first piece is read
 */
export async function* stream(
  model: GenerativeModel,
  prompt: Prompt,
  options: GenerateOptions = {},
): AsyncGenerator<string, void, undefined> {
  warnOfGreedyChoice(model, options);
  for await (const {piece} of streamTokens(model, prompt, options)) if (piece !== '') yield piece;
}

/** A token of {@link streamTokens}. */
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

export interface StreamTokensOptions extends GenerateOptions {
  /** Number of alternatives to report with each token; 0 only reports its own probability. Default: neither. */
  alternatives?: number;
}

/** Generates as {@link stream} does, token by token, so that a server can count them and learn why they ended. */
export async function* streamTokens(
  model: GenerativeModel,
  prompt: Prompt,
  {alternatives, ...options}: StreamTokensOptions = {},
): AsyncGenerator<GeneratedToken, void, undefined> {
  const rows = createRows(model, [prompt], options, requireTokenizer(model));
  const [{newIds, settings, streamer}] = rows;
  if (alternatives !== undefined && !(Number.isSafeInteger(alternatives) && alternatives >= 0)) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `streamTokens alternatives: expected a whole number of 0 or more, got ${show(alternatives)}`,
    );
  }
  rows[0].alternatives = alternatives;
  for await (const [piece] of decodingSteps(model, rows, options)) {
    const id = newIds[newIds.length - 1];
    const isStopped = settings.eosTokenIds.includes(id) || streamer?.isStopped || isComplete(rows[0]);
    yield {
      id,
      piece,
      ...(rows[0].isFinished && {finishReason: isStopped ? 'stop' : 'length'}),
      ...rows[0].likelihood,
    };
  }
}

/**
 * Answers a conversation: renders it with the tokenizer's chat template and generates the assistant's turn.
 * To stream the answer: `stream(model, model.tokenizer.encodeChat(messages, {addGenerationPrompt: true}))`.
 *
 * @throws TfjsLoraError as {@link generate}; `UNSUPPORTED` when the tokenizer has no chat template
 */
export async function chat(
  model: GenerativeModel,
  messages: ChatMessage[],
  given: ChatOptions = {},
): Promise<string> {
  assertKnownOptions('chat', given, CHAT_OPTIONS);
  const {dateString, tools, variables, ...options} = given;
  const tokenizer = requireTokenizer(model);
  const prompt = tokenizer.encodeChat(messages, {addGenerationPrompt: true, dateString, tools, variables});
  return generate(model, prompt, options);
}

/** Settings that only sampling reads. */
const SAMPLING = ['temperature', 'topK', 'topP', 'minP'] as const;

/** Warns of settings for sampling in a call that does not sample and does not say so either. */
function warnOfGreedyChoice({generationConfig}: GenerativeModel, options: GenerateOptions): void {
  const unread = SAMPLING.filter((name) => options?.[name] !== undefined);
  if (unread.length === 0 || options.doSample !== undefined || generationConfig?.doSample) return;
  warn(
    `generate ${unread.join(', ')}: expected doSample: true with ${unread.length > 1 ? 'them' : 'it'}, got none, so the likeliest ` +
      'tokens are taken. Pass doSample, true or false.',
  );
}

/** One sequence of the batch. */
interface Row {
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
  /** What the text must become, and how far it is. */
  constraint?: {tokens: TokenConstraint; state: AutomatonState};
  isFinished: boolean;
  /** Name of its adapter. Default: the active ones. */
  adapterName?: string;
  /** Number of alternatives to report. */
  alternatives?: number;
  /** What is reported of the last token. */
  likelihood?: Pick<GeneratedToken, 'logProbability' | 'alternatives'>;
}

async function finishedRows(
  model: GenerativeModel,
  prompts: Prompt | string[] | number[][],
  options: GenerateOptions,
  tokenizer?: Tokenizer,
  afterToken?: AfterToken,
): Promise<Row[]> {
  const rows = createRows(model, isBatch(prompts) ? prompts : [prompts], options, tokenizer);
  for await (const _ of decodingSteps(model, rows, options)) await afterToken?.();
  return rows;
}

/** @param tokenizer if given, every row also gets its text, not only its ids */
function createRows(
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

/**
 * Runs the decoding loop: one pass over the prompts, then one position at a time. Finished rows leave the batch.
 *
 * @yields the new text of each row that is still in the batch, if any
 */
async function* decodingSteps(
  model: GenerativeModel,
  rows: Row[],
  {onProgress, signal}: GenerateOptions,
): AsyncGenerator<string[], void, undefined> {
  let newTokens = 0;
  let active = rows;
  let adapters = adaptersOf(model, active);
  const cache = model.newCache();
  const decoder = new Decoder(model, cache);
  try {
    // Shorter prompts are padded on the left, so that every row's next token is in the same column.
    const promptLength = Math.max(...rows.map(({ids}) => ids.length));
    let paddings = rows.map(({ids}) => promptLength - ids.length);
    let newPositions = promptLength;
    for (;;) {
      await letSignalsThrough(signal);
      const ids = await nextIds(decoder, active, {paddings, newPositions, adapters});
      const pieces = active.map((row, i) => advance(row, ids[i]));
      newTokens += active.length;
      onProgress?.({done: rows.filter(({isFinished}) => isFinished).length, total: rows.length, newTokens});
      yield pieces;

      const staying = active.flatMap((row, i) => (row.isFinished ? [] : [i]));
      if (staying.length === 0) return;
      if (staying.length < active.length) {
        decoder.forget();
        cache.select(staying);
        active = staying.map((i) => active[i]);
        paddings = staying.map((i) => paddings[i]);
        adapters?.dispose();
        adapters = adaptersOf(model, active);
      }
      newPositions = 1;
    }
  } finally {
    decoder.forget();
    cache.dispose();
    adapters?.dispose();
  }
}

/** Prepares the rows' adapters; undefined if the active ones apply. */
function adaptersOf(
  model: GenerativeModel,
  rows: Row[],
): ReturnType<NonNullable<GenerativeModel['rowAdapters']>> | undefined {
  const names = rows.map(({adapterName}) => adapterName).filter((name) => name !== undefined);
  if (names.length === 0) return undefined;
  if (model.rowAdapters) return model.rowAdapters(names);
  throw new TfjsLoraError(
    'UNSUPPORTED',
    'generate adapterNames: expected a model with adapters, got one without',
  );
}

/** Chooses each row's next token. */
async function nextIds(decoder: Decoder, rows: Row[], columns: Omit<DecodedBatch, 'ids'>): Promise<number[]> {
  const isGreedy = hasKernel(greedyChoiceOp) && rows.every(takesLargest);
  const mayContinue = rows.every(({newIds, room}) => newIds.length + 1 < room);
  const batch = {...columns, ids: rows.map(({ids}) => ids)};
  const values = await decoder.next(batch, {isGreedy, mayContinue});
  if (isGreedy) return rows.map(({index}, b) => finiteChoice(values[b], index));
  const vocabulary = values.length / rows.length;
  return rows.map((row, b) =>
    chooseToken(row, values.slice(b * vocabulary, (b + 1) * vocabulary) as Float32Array),
  );
}

/** Whether a row's next token is that of the largest unchanged logit. */
function takesLargest({settings, newIds, constraint, alternatives}: Row): boolean {
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
function chooseToken(row: Row, scores: Float32Array): number {
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
function advance(row: Row, id: number): string {
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

function assertPromptKind(prompt: unknown, index: number): void {
  if (typeof prompt === 'string' || Array.isArray(prompt) || ArrayBuffer.isView(prompt)) return;
  throw new TfjsLoraError(
    'INVALID_ARGUMENT',
    `prompt ${index}: expected a text or token ids, got ${show(prompt)}. Answer messages with chat.`,
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

function requireTokenizer({tokenizer}: GenerativeModel): Tokenizer {
  if (tokenizer) return tokenizer;
  throw new TfjsLoraError(
    'UNSUPPORTED',
    'text generation: expected a model with a tokenizer, got one without. Load a folder that has tokenizer.json, ' +
      'set model.tokenizer, or use generateIds with token ids.',
  );
}

function isBatch(prompts: Prompt | string[] | number[][]): prompts is string[] | number[][] {
  return Array.isArray(prompts) && (prompts.length === 0 || typeof prompts[0] !== 'number');
}
