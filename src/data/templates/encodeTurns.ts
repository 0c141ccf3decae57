import type {ChatMessage, Tokenizer} from '../../../models/tokenizer.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import type {Message, Slot, Template} from './template.ts';
import type {ResolvedTemplate} from './templateRegistry.ts';
import {type ThoughtScope, withThoughts} from './thoughts.ts';
import {describeTools, parseFunctionCalls, parseTools, writeFunctionCalls} from './toolFormats.ts';

export interface ConversationContext {
  /** System text. Default: the template's own. */
  system?: string;
  /** Callable tools, as JSON text. */
  tools?: string;
  /** Which answers count where thoughts are removed or added; see `thoughts.ts`. Default `all`. */
  scope?: ThoughtScope;
}

/**
 * Encodes a conversation as token ids, one list per message. The text before the first turn belongs to the first
 * message, and the answer's header to the turn before it.
 *
 * @param messages alternate between a user (or a function's result) and the assistant (or its function call)
 * @throws TfjsLoraError `CORRUPT_FILE` for a function call or tools that do not parse; `UNSUPPORTED` when the
 *   tokenizer's chat template leaves out tools or their calls, or writes the conversation so that its turns cannot be
 *   told apart
 */
export function encodeTurns(
  resolved: ResolvedTemplate,
  tokenizer: Tokenizer,
  messages: readonly Message[],
  context: ConversationContext = {},
): number[][] {
  return resolved.kind === 'chat'
    ? chatTemplateTurns(tokenizer, messages, {
        ...context,
        system: context.system || resolved.defaultSystem,
        dateString: resolved.dateString,
      })
    : slotTurns(resolved, tokenizer, messages, context);
}

/**
 * Encodes a conversation that the model is to continue as token ids.
 *
 * @param messages the last one is a user's or a function's result
 */
export function encodePrompt(
  resolved: ResolvedTemplate,
  tokenizer: Tokenizer,
  messages: readonly Message[],
  context?: ConversationContext,
): number[] {
  return encodeTurns(resolved, tokenizer, messages, {...context, scope: 'one'}).flat();
}

/** Returns the token that ends a sequence under a template; undefined when the tokenizer has none. */
export function eosTokenId(resolved: ResolvedTemplate, tokenizer: Tokenizer): number | undefined {
  const replacing =
    resolved.kind === 'slots' && resolved.template.replaceEos
      ? tokenizer.tokenToId(resolved.template.stopWords[0])
      : undefined;
  return replacing ?? tokenizer.eosTokenId;
}

/** Returns the tokens that end an answer in generation. */
export function templateStopIds(resolved: ResolvedTemplate, tokenizer: Tokenizer): number[] {
  const words = resolved.kind === 'slots' ? resolved.template.stopWords : [];
  const ids = [eosTokenId(resolved, tokenizer), ...words.map((word) => tokenizer.tokenToId(word))];
  return [...new Set(ids)].filter((id): id is number => id !== undefined);
}

function slotTurns(
  {template, thoughts = {}, dateString}: ResolvedTemplate & {kind: 'slots'},
  tokenizer: Tokenizer,
  given: readonly Message[],
  {system, tools, scope = 'all'}: ConversationContext,
): number[][] {
  const {messages, inPrompt, inAnswer} = withThoughts(given, template, thoughts, scope);
  const thought = () => tokenizer.encode(template.thoughtWords.join(''), {addSpecialTokens: false});
  const systemText = system || template.defaultSystem;
  const toolText = tools ? describeTools(template.toolFormat, tools, dateString) : '';
  const idsOf = (slots: readonly Slot[], content = '') =>
    slots.flatMap((slot) => slotIds(slot, content, template, tokenizer));
  const systemBefore = () => String(template.system[0]).replace('{{content}}', () => systemText + toolText);
  return messages.map(({role, content}, i) => {
    const opening = i > 0 ? [] : idsOf(template.prefix);
    const hasSystem = i === 0 && Boolean(systemText || tools);
    const about = hasSystem && !template.systemInUser ? idsOf(template.system, systemText + toolText) : [];
    const text = role === 'function' ? writeFunctionCalls(template.toolFormat, content) : content;
    const before = hasSystem && template.systemInUser && role === 'user' ? systemBefore() : '';
    const own = idsOf(template[role], before + text);
    return [
      ...opening,
      ...about,
      ...(inAnswer.has(i) ? thought() : []),
      ...own,
      ...(inPrompt.has(i + 1) ? thought() : []),
    ];
  });
}

function slotIds(slot: Slot, content: string, template: Template, tokenizer: Tokenizer): number[] {
  if (typeof slot === 'string') {
    const text = slot.replace('{{content}}', () => content);
    return text === '' ? [] : tokenizer.encode(text, {addSpecialTokens: false});
  }
  if ('token' in slot) {
    const id = tokenizer.tokenToId(slot.token);
    if (id !== undefined) return [id];
    throw new TfjsLoraError(
      'VOCABULARY_MISMATCH',
      `template ${template.name}: expected a tokenizer with the token ${slot.token}, got one without. ` +
        'Use the template that belongs to the model.',
    );
  }
  const id =
    slot.special === 'bos'
      ? tokenizer.bosTokenId
      : eosTokenId({kind: 'slots', template, dateString: ''}, tokenizer);
  return id === undefined ? [] : [id];
}

/** Renders longer and longer beginnings of the conversation; what each adds is a turn. */
function chatTemplateTurns(
  tokenizer: Tokenizer,
  messages: readonly Message[],
  {system, tools, dateString}: ConversationContext & {dateString: string},
): number[][] {
  const chat: ChatMessage[] = system ? [{role: 'system', content: system}] : [];
  const options = {dateString, tools: tools ? parseTools(tools) : undefined};
  let before = '';
  return messages.map((message, index) => {
    chat.push(chatMessage(message));
    const addGenerationPrompt = message.role === 'user' || message.role === 'observation';
    const text = tokenizer.applyChatTemplate(chat, {...options, addGenerationPrompt});
    const textOf = (last: ChatMessage, tools = options.tools) =>
      tokenizer.applyChatTemplate([...chat.slice(0, -1), last], {...options, tools, addGenerationPrompt});
    if (index === 0 && options.tools?.length && textOf(chat.at(-1)!, []) === text) throw unwritten('tools');
    if (message.role === 'function' && textOf({role: 'assistant'}) === text)
      throw unwritten('the calls of tools');
    if (!text.startsWith(before)) {
      throw new TfjsLoraError(
        'UNSUPPORTED',
        `template model: expected a chat template that only appends text for each turn, got one that rewrites ` +
          `${JSON.stringify(before.slice(-60))} when turn ${chat.length} follows. Choose another template by name.`,
      );
    }
    const added = text.slice(before.length);
    before = text;
    return tokenizer.encode(added, {addSpecialTokens: false});
  });
}

function unwritten(what: string): TfjsLoraError {
  return new TfjsLoraError(
    'UNSUPPORTED',
    `template model: expected a chat template that writes ${what}, got one that leaves them out. ` +
      'Choose another template by name.',
  );
}

function chatMessage({role, content}: Message): ChatMessage {
  if (role === 'observation') return {role: 'tool', content};
  if (role !== 'function') return {role, content};
  const calls = parseFunctionCalls(content);
  return {role: 'assistant', tool_calls: calls.map((call) => ({type: 'function', function: call}))};
}
