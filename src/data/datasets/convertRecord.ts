import {parsePythonJson, writePythonJson} from '../../../models/pythonJson.ts';
import {PythonFloat} from '../../../models/pythonValue.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {show} from '../../../quant/show.ts';
import type {Conversation} from '../templates/conversation.ts';
import type {Message, Role} from '../templates/template.ts';
import {parseTools} from '../templates/toolFormats.ts';
import {columnAdvice, tagAdvice} from './columnAdvice.ts';
import type {ColumnName, RecordFormat, TagName} from './recordFormat.ts';
import {placeOf, type SourceRecord} from './sourceRecord.ts';

/** Text between the results of several function calls in one turn. */
const BETWEEN_RESULTS = '\n</tool_response>\n<tool_response>\n';

/**
 * Converts a record of a data set to a conversation, following the data set's format, columns and tags. A conversation
 * whose turns do not alternate gets a `fault`.
 *
 * @throws TfjsLoraError `CORRUPT_FILE` naming the record and its column, for a missing column or a value of another
 *   type
 */
export function convertRecord(record: SourceRecord, source: RecordFormat): Conversation {
  const reader = new RecordReader(record, source);
  switch (source.format) {
    case 'alpaca':
      return alpacaConversation(reader);
    case 'sharegpt':
      return messagesConversation(reader, reader.turns());
    case 'openai':
      return messagesConversation(reader, joinedResults(reader.turns()));
  }
}

/** Why a record of a data set to rank cannot be used. */
const NO_PAIR = 'expected a chosen and a rejected answer, got none';

function alpacaConversation(reader: RecordReader): Conversation {
  const parts = [reader.text('prompt', true), reader.text('query')].filter(Boolean);
  const answerOf = (column: ColumnName): Message | undefined => {
    const content = reader.text(column);
    return content === undefined ? undefined : {role: 'assistant', content};
  };
  const response = answerOf(reader.isRanking ? 'chosen' : 'response');
  const rejected = reader.isRanking ? answerOf('rejected') : undefined;
  return {
    prompt: [...reader.history(), {role: 'user', content: parts.join('\n')}],
    ...(response && {response}),
    ...(rejected && {rejected}),
    ...(reader.isRanking && !(response && rejected) && {fault: NO_PAIR}),
    ...reader.verdict(response),
    system: reader.text('system'),
    tools: reader.tools(),
    source: reader.place,
  };
}

function messagesConversation(reader: RecordReader, all: Turn[]): Conversation {
  const system = all[0]?.role === 'system' ? all[0].content : reader.text('system');
  const turns = all[0]?.role === 'system' ? all.slice(1) : all;
  if (reader.isRanking) return rankedConversation(reader, turns, system);
  const fault = faultOf(turns);
  const messages = fault ? [] : (turns as Message[]);
  return {
    prompt: messages.slice(0, -1),
    response: messages.at(-1),
    system,
    tools: reader.tools(),
    source: reader.place,
    ...reader.verdict(messages.at(-1)),
    ...(fault && {fault}),
  };
}

function rankedConversation(reader: RecordReader, turns: Turn[], system: string | undefined): Conversation {
  const [response, rejected] = [reader.answer('chosen'), reader.answer('rejected')];
  const fault = faultOf(turns, 'question') ?? (response && rejected ? undefined : NO_PAIR);
  return {
    prompt: fault ? [] : (turns as Message[]),
    ...(!fault && {response, rejected}),
    system,
    tools: reader.tools(),
    source: reader.place,
    ...(fault && {fault}),
  };
}

/** A turn as the data has it. A role that is none of the tags keeps its name. */
interface Turn {
  role: Role | 'system' | undefined;
  /** The role as the data spells it. */
  tag: string;
  content: string;
}

const ROLE_TAGS: [TagName, Turn['role']][] = [
  ['user_tag', 'user'],
  ['assistant_tag', 'assistant'],
  ['observation_tag', 'observation'],
  ['function_tag', 'function'],
  ['system_tag', 'system'],
];

const TURNS: [string, Role[]][] = [
  ['a user or a function result', ['user', 'observation']],
  ['an assistant or a function call', ['assistant', 'function']],
];

/** Returns why turns cannot serve for training, or undefined: they must alternate and end as they should. */
function faultOf(turns: Turn[], end: 'answer' | 'question' = 'answer'): string | undefined {
  if (turns.length === 0) return 'expected turns, got none';
  for (const [i, {role, tag}] of turns.entries()) {
    const [name, roles] = TURNS[i % 2];
    if (!roles.includes(role as Role)) return `expected ${name} in turn ${i}, got '${tag}'`;
  }
  const isRight = turns.length % 2 === (end === 'answer' ? 0 : 1);
  return isRight
    ? undefined
    : `expected ${end === 'answer' ? 'an answer' : 'a question'} at the end, got '${turns.at(-1)?.tag}'`;
}

/** Joins the results of consecutive function calls into one turn. */
function joinedResults(turns: Turn[]): Turn[] {
  const joined: Turn[] = [];
  for (const turn of turns) {
    const last = joined.at(-1);
    if (turn.role === 'observation' && last?.role === 'observation')
      joined[joined.length - 1] = {...last, content: last.content + BETWEEN_RESULTS + turn.content};
    else joined.push(turn);
  }
  return joined;
}

/** Reads a record's values from their columns. */
class RecordReader {
  readonly place: string;

  constructor(
    private readonly record: SourceRecord,
    private readonly source: RecordFormat,
  ) {
    this.place = placeOf(record);
  }

  get isRanking(): boolean {
    return this.source.ranking ?? false;
  }

  /** Returns whether an answer is desirable, or why that is unknown; nothing for records without verdicts. */
  verdict(answer: Message | undefined): Pick<Conversation, 'desirable' | 'fault'> {
    if (this.source.columns.kto_tag === undefined) return {};
    const desirable = this.value('kto_tag');
    if (typeof desirable !== 'boolean')
      return {fault: `expected true or false as kto_tag, got ${show(desirable)}`};
    const isEmpty = answer === undefined || answer.content === '';
    return {desirable, ...(isEmpty && {fault: 'expected an answer to judge, got none'})};
  }

  /** Returns an answer that is a message of its own; undefined for another role, or when the record has none. */
  answer(column: 'chosen' | 'rejected'): Message | undefined {
    const value = this.value(column);
    if (value === undefined) return undefined;
    const {role, content} = this.turn(value, column, '');
    return role === 'assistant' || role === 'function' ? {role, content} : undefined;
  }

  /** Returns the text of a column; undefined when the record has none. */
  text(column: ColumnName, isNeeded = false): string | undefined {
    const value = this.value(column, isNeeded);
    if (value === undefined || typeof value === 'string') return value;
    throw this.mistake(column, 'text', value);
  }

  /** Returns the tools as JSON text. */
  tools(): string | undefined {
    const value = this.value('tools');
    if (value === undefined || value === '') return value;
    const text = typeof value === 'string' ? value : writePythonJson(value);
    try {
      parseTools(text);
    } catch (cause) {
      const {message} = cause as Error;
      throw this.mistake('tools', 'JSON text or a list of tools', value, ` ${message}.`);
    }
    return text;
  }

  /** Returns the earlier questions and answers. */
  history(): Message[] {
    const pairs = this.list('history');
    return (pairs ?? []).flatMap((pair, i) => {
      const isPair =
        Array.isArray(pair) && pair.length === 2 && pair.every((text) => typeof text === 'string');
      if (!isPair) throw this.mistake('history', `[question, answer] in entry ${i}`, pair);
      const [question, answer] = pair as [string, string];
      return [
        {role: 'user', content: question},
        {role: 'assistant', content: answer},
      ] satisfies Message[];
    });
  }

  /** Returns the messages of a conversation, with the roles that the tags give them. */
  turns(): Turn[] {
    const messages = this.list('messages', true) as unknown[];
    return messages.map((message, i) => this.turn(message, 'messages', ` in turn ${i}`));
  }

  private turn(message: unknown, column: ColumnName, place: string): Turn {
    if (typeof message !== 'object' || message === null)
      throw this.mistake(column, `an object${place}`, message);
    const {tags} = this.source;
    const part = (name: 'role_tag' | 'content_tag') => {
      const key = tags[name];
      const value = key === undefined ? undefined : (message as Record<string, unknown>)[key];
      if (typeof value === 'string') return value;
      const keys = Object.keys(message);
      const nearest = value === undefined ? tagAdvice(keys, key) : '';
      const expected = `text under '${key}' (tags ${name})${place}`;
      throw this.mistake(column, expected, value === undefined ? keys : value, nearest);
    };
    const tag = part('role_tag');
    const role = ROLE_TAGS.find(([name]) => tags[name] === tag)?.[1];
    const calls = (message as {tool_calls?: {function?: unknown}[]}).tool_calls;
    const isCall = this.source.format === 'openai' && role === 'assistant';
    if (isCall && Array.isArray(calls) && calls.length > 0)
      return {role: 'function', tag, content: writePythonJson(calls.map((call) => call.function))};
    return {role, tag, content: part('content_tag')};
  }

  /** Returns a list, which CSV holds as JSON text. */
  private list(column: ColumnName, isNeeded = false): unknown[] | undefined {
    const value = this.value(column, isNeeded);
    if (value === undefined || Array.isArray(value)) return value;
    if (typeof value === 'string') {
      if (value === '' && !isNeeded) return undefined;
      try {
        const parsed = parsePythonJson(value);
        if (Array.isArray(parsed)) return parsed;
      } catch {} // the message below shows it
    }
    throw this.mistake(column, 'a list', value);
  }

  /** Returns a column's value; undefined for null, and for NaN, which pandas writes to files for a missing value. */
  private value(column: ColumnName, isNeeded = false): unknown {
    const key = this.source.columns[column];
    const held = key === undefined ? undefined : (this.record.value[key] ?? undefined);
    const value = held instanceof PythonFloat && Number.isNaN(held.value) ? undefined : held;
    if (value !== undefined || !isNeeded) return value;
    // A question may be null, or entirely in the query; a missing key is a mistake in the columns.
    if (column === 'prompt' && (key === undefined || key in this.record.value)) return undefined;
    if (key !== undefined && key in this.record.value) throw this.mistake(column, 'a value', null);
    const keys = Object.keys(this.record.value);
    throw new TfjsLoraError(
      'CORRUPT_FILE',
      `${this.place} column '${key}' (${column}): expected it, got columns ${keys.join(', ') || '(none)'}. ` +
        columnAdvice(this.record.value, column, key, this.source),
    );
  }

  private mistake(column: ColumnName, expected: string, got: unknown, advice = ''): TfjsLoraError {
    return new TfjsLoraError(
      'CORRUPT_FILE',
      `${this.place} column '${this.source.columns[column]}' (${column}): expected ${expected}, ` +
        `got ${writePythonJson(got).slice(0, 80)}.${advice}`,
    );
  }
}
