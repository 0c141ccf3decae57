import type {ChatMessage, Tokenizer} from '../../../models/tokenizer.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {encodePrompt} from '../../data/templates/encodeTurns.ts';
import type {Message} from '../../data/templates/template.ts';
import {
  type ResolvedTemplate,
  type ResolveTemplateOptions,
  resolveTemplate,
} from '../../data/templates/templateRegistry.ts';
import {type ChatEncoder, modelChatEncoder} from './chatEncoder.ts';

/** Roles of chat messages → roles of templates. */
const ROLES: Record<string, Message['role']> = {user: 'user', assistant: 'assistant', tool: 'observation'};

/**
 * Makes an encoder that writes prompts with a template of the registry, as in training.
 *
 * @param name name of the template. Default and `model`: the model's own chat template, or `empty` if it has none
 * @param options system message for conversations without one, and whether answers have thoughts
 * @throws TfjsLoraError `INVALID_ARGUMENT` for an unknown name; the encoder throws it for turns that do not alternate
 */
export function templateChatEncoder(
  tokenizer: Tokenizer,
  name: string | undefined,
  options: Omit<ResolveTemplateOptions, 'dateString'> = {},
): ChatEncoder {
  return resolvedChatEncoder(tokenizer, resolveTemplate(name, tokenizer, options));
}

/** Makes the encoder of {@link templateChatEncoder} for a resolved template. */
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
