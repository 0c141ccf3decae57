import {assertKnownOptions, type OptionNames} from '../../quant/knownOptions.ts';
import {warn} from '../../quant/warn.ts';
import {letSignalsThrough} from '../letSignalsThrough.ts';
import {
  CHAT_TEMPLATE_OPTIONS,
  type ChatMessage,
  type ChatTemplateOptions,
  type Tokenizer,
} from '../tokenizer.ts';
import {
  GENERATE_OPTIONS,
  type GenerateOptions,
  type GenerativeModel,
  type Prompt,
  requireTokenizer,
  type StreamTokensOptions,
} from './generateOptions.ts';
import {createRow, createRows, type GeneratedToken, newestToken, type Row} from './row.ts';
import {RowGroup, type RowStep} from './rowGroup.ts';
import type {TextStreamer} from './textStreamer.ts';

export type ChatOptions = GenerateOptions & Omit<ChatTemplateOptions, 'addGenerationPrompt'>;

const {addGenerationPrompt, ...TEMPLATE_OPTIONS} = CHAT_TEMPLATE_OPTIONS;
const CHAT_OPTIONS = {...GENERATE_OPTIONS, ...TEMPLATE_OPTIONS} satisfies OptionNames<ChatOptions>;

type AfterToken = () => void | Promise<void>;

/**
 * Continues one prompt or a batch of prompts.
 *
 * `options` override the model's `generation_config.json`, which overrides transformers' defaults. A sequence ends at
 * an end-of-sequence token, at a stop string, after `maxNewTokens`, or when it fills the model's
 * `maxPositionEmbeddings` (transformers would continue past the positions that the model knows).
 *
 * Each call creates its own key-value cache and frees it at the end, also after an error.
 *
 * @param prompts texts, which are encoded with their special tokens (`<|begin_of_text|>`), or ids, which are used as
 *   they are
 * @returns the new text only, without special tokens; a list for a list of prompts
 * @throws TfjsLoraError `INVALID_ARGUMENT` for an unknown or impossible option, no prompt, an empty one, or one that
 *   leaves no room below `maxPositionEmbeddings`; `VOCABULARY_MISMATCH` for ids the model does not have; `UNSUPPORTED`
 *   when the model has no tokenizer; `NON_FINITE` when the logits are not finite; the signal's reason;
 *   `UNKNOWN_ADAPTER`, and `INVALID_ARGUMENT` if the numbers of `adapterNames` and prompts differ, or adapters are
 *   merged
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
 * generator's `return()`. The model must not change until then, because a pass that a backend replays does not notice
 * if an adapter is switched.
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

/** Generates as {@link stream} does, token by token, so that a server can count them and learn why they ended. */
export async function* streamTokens(
  model: GenerativeModel,
  prompt: Prompt,
  options: StreamTokensOptions = {},
): AsyncGenerator<GeneratedToken, void, undefined> {
  const row = createRow(model, prompt, options);
  for await (const [{piece}] of decodingSteps(model, [row], options)) yield newestToken(row, piece);
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

/**
 * Generates rows until all are finished.
 *
 * @yields what each row that is still in the batch got
 */
async function* decodingSteps(
  model: GenerativeModel,
  rows: Row[],
  {onProgress, signal}: GenerateOptions,
): AsyncGenerator<RowStep[], void, undefined> {
  let newTokens = 0;
  const group = new RowGroup(model, rows);
  try {
    while (group.rows.length > 0) {
      await letSignalsThrough(signal);
      const steps = await group.next();
      for (const {error} of steps) if (error !== undefined) throw error;
      newTokens += steps.length;
      onProgress?.({done: rows.filter(({isFinished}) => isFinished).length, total: rows.length, newTokens});
      yield steps;
    }
  } finally {
    group.dispose();
  }
}

function isBatch(prompts: Prompt | string[] | number[][]): prompts is string[] | number[][] {
  return Array.isArray(prompts) && (prompts.length === 0 || typeof prompts[0] !== 'number');
}
