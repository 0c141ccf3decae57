import type {Slot, Template} from './template.ts';

/** Texts of the tokenizer's tokens that slots refer to. */
export interface NamedTokens {
  bos?: string;
  /** End-of-sequence token, after any replacement by the template. */
  eos?: string;
}

/**
 * Writes a template as the Jinja text that transformers and vLLM render, as in LLaMA-Factory's
 * `Template._get_jinja_template`. A user's turn ends with the header of the answer, so there is nothing more to add for
 * generation.
 */
export function chatTemplateOf(template: Template, tokens: NamedTokens): string {
  const {prefix, system, user, assistant, defaultSystem, systemInUser} = template;
  const slots = (turn: readonly Slot[], content = 'content') =>
    turn.flatMap((slot) => jinjaPieces(slot, tokens, content)).join(' + ');
  const opening = slots(prefix);
  return [
    opening && `{{ ${opening} }}`,
    defaultSystem && `{% set system_message = ${quoted(defaultSystem)} %}`,
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}",
    "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% endif %}",
    systemInUser
      ? ''
      : `{% if system_message is defined %}{{ ${slots(system, 'system_message')} }}{% endif %}`,
    '{% for message in loop_messages %}',
    systemInUser
      ? `{% if loop.index0 == 0 and system_message is defined %}{% set content = ${slots(system, 'system_message')} + message['content'] %}{% else %}`
      : '',
    "{% set content = message['content'] %}",
    systemInUser ? '{% endif %}' : '',
    "{% if message['role'] == 'user' %}",
    `{{ ${slots(user)} }}`,
    "{% elif message['role'] == 'assistant' %}",
    `{{ ${slots(assistant)} }}`,
    '{% endif %}',
    '{% endfor %}',
  ].join('');
}

/** Returns what a slot writes around its content, with the content's name in its place. */
function jinjaPieces(slot: Slot, tokens: NamedTokens, content: string): string[] {
  return textAround(slot, tokens).flatMap((text, i) => [
    ...(i > 0 ? [content] : []),
    ...(text === '' ? [] : [quoted(text)]),
  ]);
}

/** Returns a slot's text before its content and, if it has content, after it. A named token becomes its text. */
export function textAround(slot: Slot, {bos, eos}: NamedTokens): string[] {
  if (typeof slot !== 'string')
    return [('token' in slot ? slot.token : slot.special === 'bos' ? bos : eos) ?? ''];
  const at = slot.indexOf('{{content}}');
  return at < 0 ? [slot] : [slot.slice(0, at), slot.slice(at + '{{content}}'.length)];
}

const quoted = (text: string) => `'${text.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`;
