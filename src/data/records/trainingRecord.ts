import type {ChatMessage} from '../../../models/tokenizer.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {show} from '../../../quant/show.ts';
import type {Item, TrainingData} from '../batches/batches.ts';
import {isPair, isVerdict} from '../batches/collate.ts';
import {convertRecord} from '../datasets/convertRecord.ts';
import {DEFAULT_COLUMNS, DEFAULT_TAGS, type RecordFormat} from '../datasets/recordFormat.ts';
import type {Conversation} from '../templates/conversation.ts';
import {assertReadable, readableTurns} from './unreadKeys.ts';

/** Further keys that records with questions and answers may have. */
interface RecordContext {
  /** System text. Default: the template's own. */
  system?: string | null;
  /** Callable tools: JSON schemas of functions, or their JSON text. Default: none. */
  tools?: unknown[] | string | null;
}

/**
 * One text or conversation to learn from. Keys that are not listed here are not read; those that would change what is
 * learned, such as `images`, are refused.
 */
export type TrainingRecord =
  /** A question and its answer. As messages, those of `completion` follow those of `prompt`, whose answers are context. */
  | ({prompt: string | ChatMessage[]; completion: string | ChatMessage[]} & RecordContext)
  /** OpenAI's messages: all assistant turns are learned. */
  | ({messages: ChatMessage[]} & RecordContext)
  /** Alpaca's keys. The question is `instruction`, a newline and `input`; `history` has earlier `[question, answer]`. */
  | ({
      instruction: string;
      input?: string | null;
      output: string;
      history?: readonly (readonly string[])[] | null;
    } & RecordContext)
  /** ShareGPT's turns. */
  | ({conversations: {from: string; value: string}[]} & RecordContext)
  /** A better and a worse answer, for a loss that compares them. As messages, each answer is the last of its list. */
  | ({
      prompt: string | ChatMessage[];
      chosen: string | ChatMessage[];
      rejected: string | ChatMessage[];
    } & RecordContext)
  /** A question and an answer with a verdict: whether it is desirable, for a loss that judges single answers. */
  | ({prompt: string | ChatMessage[]; completion: string | ChatMessage[]; label: boolean} & RecordContext)
  /** Plain text, which is learned as a whole, with the end of sequence. */
  | {text: string};

/**
 * A prompt without an answer, for a loss such as `grpoLoss` that lets the model answer it. Its other keys are passed to
 * the functions that compute rewards.
 */
export interface PromptRecord extends RecordContext {
  prompt: string | ChatMessage[];
  [key: string]: unknown;
}

/** The data that training reads: {@link TrainingData}, whose items may also be records. */
export type RecordData = TrainingData<Item | TrainingRecord | PromptRecord>;

interface RecordKind {
  /** Keys that a record of this kind has. */
  needs: string[];
  /** Further keys that it may have. */
  reads: string[];
  format: Omit<RecordFormat, 'name'>;
}

const context = {system: 'system', tools: 'tools'};
const MESSAGE_TAGS = {
  ...DEFAULT_TAGS,
  role_tag: 'role',
  content_tag: 'content',
  user_tag: 'user',
  assistant_tag: 'assistant',
  observation_tag: 'tool',
};
const alpaca = {format: 'alpaca', tags: {}} as const;
const TEXT: RecordKind = {
  needs: ['text'],
  reads: [],
  format: {...alpaca, columns: {prompt: 'text'}},
};
const MESSAGES: RecordKind = {
  needs: ['messages'],
  reads: ['system', 'tools'],
  format: {format: 'openai', columns: {messages: 'messages', ...context}, tags: MESSAGE_TAGS},
};
const COMPLETION: RecordKind = {
  needs: ['prompt', 'completion'],
  reads: ['system', 'tools'],
  format: {...alpaca, columns: {prompt: 'prompt', response: 'completion', ...context}},
};
const PREFERENCE: RecordKind = {
  needs: ['prompt', 'chosen', 'rejected'],
  reads: ['system', 'tools'],
  format: {
    ...alpaca,
    ranking: true,
    columns: {prompt: 'prompt', chosen: 'chosen', rejected: 'rejected', ...context},
  },
};
const VERDICT: RecordKind = {...COMPLETION, needs: ['prompt', 'completion', 'label']};
const KINDS: RecordKind[] = [
  COMPLETION,
  MESSAGES,
  {
    needs: ['instruction', 'output'],
    reads: ['input', 'history', 'system', 'tools'],
    format: {...alpaca, columns: {...DEFAULT_COLUMNS, history: 'history', ...context}},
  },
  {
    needs: ['conversations'],
    reads: ['system', 'tools'],
    format: {format: 'sharegpt', columns: {...DEFAULT_COLUMNS, ...context}, tags: DEFAULT_TAGS},
  },
  PREFERENCE,
  VERDICT,
  TEXT,
];

/** Whether an item of training data is to be read as a record, because it has no token ids. */
export function isRecord(item: unknown): item is TrainingRecord {
  return (
    item != null &&
    !Array.isArray(item) &&
    !Object.hasOwn(item, 'inputIds') &&
    !isPair(item) &&
    !isVerdict(item)
  );
}

/**
 * Reads a record as a conversation; a `{text}` becomes its only turn.
 *
 * @param call name of the function that was called, for messages
 * @param index from 0
 * @param use what the record is for: an empty answer can be compared with a prediction, but not learned
 * @throws TfjsLoraError `INVALID_ARGUMENT` naming the record, for unknown keys, a value of another type, turns that do
 *   not alternate and an empty answer; `UNSUPPORTED` for keys that would change what is learned
 */
export function conversationOf(
  record: TrainingRecord,
  index: number,
  call: string,
  use: 'training' | 'prediction' = 'training',
): {conversation: Conversation; isText: boolean} {
  const kind = kindOf(record, index, call);
  const place = `${call} record ${index}`;
  assertReadable(record, place, kind, KINDS);
  const conversation = converted(record, index, call, kind === VERDICT ? COMPLETION : kind);
  if (kind === VERDICT) conversation.desirable = (record as {label: boolean}).label;
  const isText = kind === TEXT;
  const turns = [...conversation.prompt, ...(conversation.response ? [conversation.response] : [])];
  const given = turns.filter(({role}) => role === 'assistant' || role === 'function');
  const learned = isText ? turns : given.slice(conversation.unlearnedAnswers);
  const answers = [...learned, ...(conversation.rejected ? [conversation.rejected] : [])];
  const isMissing = learned.length === 0 || answers.some(({content}) => content.trim() === '');
  const missing = isText ? 'a text to learn' : 'an answer to learn';
  const fault =
    conversation.fault ??
    (isMissing && use === 'training' ? `expected ${missing}, got an empty one` : undefined);
  if (fault === undefined) return {conversation, isText};
  const keys = `Look at its ${kind.needs.join(' and ')}, or leave the record out.`;
  throw new TfjsLoraError('INVALID_ARGUMENT', `${conversation.source}: ${fault}. ${keys}`);
}

function kindOf(record: TrainingRecord, index: number, call: string): RecordKind {
  const isKind = ({needs}: RecordKind) => needs.every((key) => Object.hasOwn(record, key));
  const fitting = KINDS.filter(isKind);
  const hasVerdict =
    typeof (record as {label?: unknown} | null)?.label === 'boolean' && fitting.includes(VERDICT);
  const kinds = fitting.filter((kind) => kind !== (hasVerdict ? COMPLETION : VERDICT));
  if (kinds.length === 1) return kinds[0];
  const expected = KINDS.map(({needs}) => `{${needs.join(', ')}}`).join(', ');
  const got =
    typeof record === 'object' && record !== null ? `the keys ${show(Object.keys(record))}` : show(record);
  throw new TfjsLoraError(
    'INVALID_ARGUMENT',
    `${call} record ${index}: expected the keys of one of ${expected}, got ${got}. ` +
      (kinds.length > 1 ? 'Keep the keys of one kind only.' : adviceForKeys(record)),
  );
}

/** Other names of the keys of {prompt, completion}, and of `output` beside an `instruction`. */
const QUESTIONS = ['question', 'query', 'input', 'user'];
const ANSWERS = ['answer', 'response', 'output', 'completion', 'target', 'assistant'];

/** Says how to write a record that has the keys of no kind. */
function adviceForKeys(record: unknown): string {
  if (typeof record === 'string') return 'Write a text to learn as {text: …}, and a question as {prompt: …}.';
  const has = (key: string) => Object.hasOwn(Object(record), key);
  const renamed = (names: string[], ours: string) => {
    const name = has(ours) ? undefined : names.find(has);
    return name === undefined ? [] : [`${name} to ${ours}`];
  };
  const renames = has('instruction')
    ? renamed(ANSWERS, 'output')
    : [...renamed(QUESTIONS, 'prompt'), ...renamed(ANSWERS, 'completion')];
  const advice = renames.length > 0 ? `Rename ${renames.join(' and ')}` : 'Rename its keys';
  return `${advice}, or pass token ids to fitDataset as {inputIds, labels}.`;
}

function converted(record: TrainingRecord, index: number, call: string, kind: RecordKind): Conversation {
  const given = record as Record<string, unknown>;
  const {prompt, completion, chosen, rejected} = given;
  const answers = kind === COMPLETION ? [completion] : kind === PREFERENCE ? [chosen, rejected] : [];
  const isConversational = answers.length > 0 && [prompt, ...answers].some(Array.isArray);
  if (isConversational && kind === PREFERENCE) return rankedConversation(given, index, call);
  const value: Record<string, unknown> = {
    ...given,
    ...(isConversational && {messages: joined(prompt, completion)}),
  };
  const {format} = isConversational ? MESSAGES : kind;
  const key = format.columns.messages ?? '';
  const turns = value[key];
  if (Array.isArray(turns)) value[key] = readableTurns(turns, `${call} record ${index} ${key}`);
  try {
    const conversation = convertRecord({value, file: call, index}, {name: call, ...format});
    if (!isConversational) return conversation;
    const isAnswer = (message: unknown) => (message as ChatMessage | null)?.role === 'assistant';
    return {
      ...conversation,
      unlearnedAnswers: Array.isArray(prompt) ? prompt.filter(isAnswer).length : 0,
    };
  } catch (error) {
    if (!(error instanceof TfjsLoraError)) throw error;
    throw new TfjsLoraError('INVALID_ARGUMENT', error.message, {cause: error}); // no file is corrupt
  }
}

/** Reads a record whose prompt or answers are messages: the conversation with the chosen answer, and the rejected one. */
function rankedConversation(record: Record<string, unknown>, index: number, call: string): Conversation {
  const {prompt, chosen, rejected, ...context} = record;
  const [better, worse] = [chosen, rejected].map((completion) =>
    converted({...context, prompt, completion} as TrainingRecord, index, call, COMPLETION),
  );
  return {...better, rejected: worse.response, ...(worse.fault && {fault: worse.fault})};
}

/** Joins a prompt and its completion, of which at least one is a list, into one list of messages. */
function joined(prompt: unknown, completion: unknown): unknown[] {
  const messages = (value: unknown, role: string) =>
    Array.isArray(value) ? value : [{role, content: value}];
  return [...messages(prompt, 'user'), ...messages(completion, 'assistant')];
}
