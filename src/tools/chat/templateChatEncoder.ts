import type {ChatMessage, Tokenizer} from '../../../models/tokenizer.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {encodePrompt} from '../../data/templates/encodeTurns.ts';
import type {Message} from '../../data/templates/template.ts';
import {type ResolvedTemplate, resolveTemplate} from '../../data/templates/templateRegistry.ts';
import {type ChatEncoder, modelChatEncoder} from './chatEncoder.ts';

/** What chat calls a turn → what templates call it. */
const ROLES: Record<string, Message['role']> = {user: 'user', assistant: 'assistant', tool: 'observation'};

/**
 * Prompts by a template of the registry, the way training writes them.
 *
 * @param name undefined or `model` is the chat template that came with the model; without one, `empty`
 * @param defaultSystem said where a conversation has no system message
 * @throws TfjsLoraError `INVALID_ARGUMENT` for an unknown name; and when called, for turns that do not alternate
 */
export function templateChatEncoder(
  tokenizer: Tokenizer,
  name: string | undefined,
  defaultSystem?: string,
): ChatEncoder {
  return resolvedChatEncoder(tokenizer, resolveTemplate(name, tokenizer, {defaultSystem}));
}

/** {@link templateChatEncoder}, for a template that has been looked up. */
export function resolvedChatEncoder(tokenizer: Tokenizer, template: ResolvedTemplate): ChatEncoder {
  return Object.assign(
    template.kind === 'chat' ? chatEncoder(tokenizer, template) : slotEncoder(tokenizer, template),
    {
      template,
    },
  );
}

function chatEncoder(tokenizer: Tokenizer, {defaultSystem}: ResolvedTemplate & {kind: 'chat'}): ChatEncoder {
  const encode = modelChatEncoder({tokenizer});
  const system = {role: 'system', content: defaultSystem};
  return (messages) =>
    encode(!defaultSystem || messages[0]?.role === 'system' ? messages : [system, ...messages]);
}

function slotEncoder(tokenizer: Tokenizer, resolved: ResolvedTemplate & {kind: 'slots'}): ChatEncoder {
  return (messages) => {
    const [first] = messages;
    const hasSystem = first?.role === 'system';
    const turns = (hasSystem ? messages.slice(1) : messages).map(turnOf);
    if (turns.length % 2 === 0) {
      throw new TfjsLoraError(
        'INVALID_ARGUMENT',
        `chat messages: expected turns of user and assistant that end with a user's, got ${turns.length}`,
      );
    }
    return encodePrompt(resolved, tokenizer, turns, hasSystem ? {system: String(first.content)} : {});
  };
}

function turnOf({role, content}: ChatMessage, index: number): Message {
  const turn = ROLES[role];
  const isAnswer = turn === 'assistant';
  if (turn !== undefined && isAnswer === (index % 2 === 1))
    return {role: turn, content: String(content ?? '')};
  throw new TfjsLoraError(
    'INVALID_ARGUMENT',
    `chat message ${index}: expected ${index % 2 === 1 ? 'an assistant' : 'a user or tool'} turn, as the turns of this ` +
      `template alternate, got ${role}`,
  );
}
