import {parsePythonJson, writePythonJson} from '../../../models/pythonJson.ts';
import {PythonFloat} from '../../../models/pythonValue.ts';
import {nearestNames, TfjsLoraError} from '../../../quant/errors.ts';
import type {Conversation} from '../templates/conversation.ts';
import type {Message, Role} from '../templates/template.ts';
import {parseTools} from '../templates/toolFormats.ts';
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

function alpacaConversation(reader: RecordReader): Conversation {
  const parts = [reader.text('prompt', true), reader.text('query')].filter(Boolean);
  const answer = reader.text('response');
  return {
    prompt: [...reader.history(), {role: 'user', content: parts.join('\n')}],
    ...(answer !== undefined && {response: {role: 'assistant', content: answer}}),
    system: reader.text('system'),
    tools: reader.tools(),
    source: reader.place,
  };
}

function messagesConversation(reader: RecordReader, all: Turn[]): Conversation {
  const system = all[0]?.role === 'system' ? all[0].content : reader.text('system');
  const turns = all[0]?.role === 'system' ? all.slice(1) : all;
  const fault = faultOf(turns);
  const messages = fault ? [] : (turns as Message[]);
  return {
    prompt: messages.slice(0, -1),
    response: messages.at(-1),
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

const TURNS: [string, Role[]][] = [
  ['a user or a function result', ['user', 'observation']],
  ['an assistant or a function call', ['assistant', 'function']],
];

/** Returns why turns cannot serve for training, or undefined: they must alternate and end with the assistant. */
function faultOf(turns: Turn[]): string | undefined {
  if (turns.length === 0) return 'expected turns, got none';
  for (const [i, {role, tag}] of turns.entries()) {
    const [name, roles] = TURNS[i % 2];
    if (!roles.includes(role as Role)) return `expected ${name} in turn ${i}, got '${tag}'`;
  }
  return turns.length % 2 === 0 ? undefined : `expected an answer at the end, got '${turns.at(-1)?.tag}'`;
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
    const {tags} = this.source;
    const roles: [TagName, Turn['role']][] = [
      ['user_tag', 'user'],
      ['assistant_tag', 'assistant'],
      ['observation_tag', 'observation'],
      ['function_tag', 'function'],
      ['system_tag', 'system'],
    ];
    const messages = this.list('messages', true) as unknown[];
    return messages.map((message, i) => {
      if (typeof message !== 'object' || message === null)
        throw this.mistake('messages', `an object in turn ${i}`, message);
      const tag = this.part(message as Record<string, unknown>, 'role_tag', i);
      const role = roles.find(([name]) => tags[name] === tag)?.[1];
      const calls = (message as {tool_calls?: {function?: unknown}[]}).tool_calls;
      if (
        this.source.format === 'openai' &&
        role === 'assistant' &&
        Array.isArray(calls) &&
        calls.length > 0
      ) {
        return {role: 'function', tag, content: writePythonJson(calls.map((call) => call.function))};
      }
      return {role, tag, content: this.part(message as Record<string, unknown>, 'content_tag', i)};
    });
  }

  private part(message: Record<string, unknown>, name: 'role_tag' | 'content_tag', turn: number): string {
    const key = this.source.tags[name];
    const value = key === undefined ? undefined : message[key];
    if (typeof value === 'string') return value;
    const keys = Object.keys(message);
    const nearest = value === undefined ? ` Nearest: ${nearestNames(key ?? '', keys, 1)}.` : '';
    throw this.mistake(
      'messages',
      `text under '${key}' (tags ${name}) in turn ${turn}`,
      value === undefined ? keys : value,
      nearest,
    );
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
        `Nearest: ${nearestNames(key ?? column, keys, 1)}. ` +
        `Name it under columns ${column} of ${this.source.name} in dataset_info.json.`,
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
