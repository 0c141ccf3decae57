import type {Slot, Template} from './template.ts';

/** The tokenizer's tokens that a template's slots stand for. */
export interface NamedTokens {
  bos?: string;
  /** After the template has replaced it, where it does. */
  eos?: string;
}

/**
 * A template as the Jinja text that transformers and vLLM render, as LLaMA-Factory's `Template._get_jinja_template` writes
 * it. A user's turn ends with the header of the answer, so there is nothing more to add for generation.
 */
export function chatTemplateOf(template: Template, tokens: NamedTokens): string {
  const {prefix, system, user, assistant, defaultSystem} = template;
  const slots = (turn: readonly Slot[], content = 'content') =>
    turn.flatMap((slot) => jinjaPieces(slot, tokens, content)).join(' + ');
  const opening = slots(prefix);
  return [
    opening && `{{ ${opening} }}`,
    defaultSystem && `{% set system_message = ${quoted(defaultSystem)} %}`,
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}",
    "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% endif %}",
    `{% if system_message is defined %}{{ ${slots(system, 'system_message')} }}{% endif %}`,
    '{% for message in loop_messages %}',
    "{% set content = message['content'] %}",
    "{% if message['role'] == 'user' %}",
    `{{ ${slots(user)} }}`,
    "{% elif message['role'] == 'assistant' %}",
    `{{ ${slots(assistant)} }}`,
    '{% endif %}',
    '{% endfor %}',
  ].join('');
}

/** What a slot writes around the content, and the content's name in its place. */
function jinjaPieces(slot: Slot, tokens: NamedTokens, content: string): string[] {
  return textAround(slot, tokens).flatMap((text, i) => [
    ...(i > 0 ? [content] : []),
    ...(text === '' ? [] : [quoted(text)]),
  ]);
}

/** A slot's text before its content and, where it has one, after it; a named token is the text it stands for. */
export function textAround(slot: Slot, {bos, eos}: NamedTokens): string[] {
  if (typeof slot !== 'string')
    return [('token' in slot ? slot.token : slot.special === 'bos' ? bos : eos) ?? ''];
  const at = slot.indexOf('{{content}}');
  return at < 0 ? [slot] : [slot.slice(0, at), slot.slice(at + '{{content}}'.length)];
}

const quoted = (text: string) => `'${text.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`;
