import {type NamedTokens, textAround} from './chatTemplateOf.ts';
import type {Slot, Template} from './template.ts';

const TITLE = '# ollama modelfile made by tfjs-lora\n';

/** Whether a text is a Modelfile made here, which may be replaced. */
export const isOwnModelfile = (text: string | undefined): boolean => text?.startsWith(TITLE) ?? false;

/**
 * Writes Ollama's Modelfile for a folder of weights under a template, as in LLaMA-Factory's
 * `Template.get_ollama_modelfile`. To use it, run `ollama create name -f Modelfile` in the folder.
 *
 * @param stops tokens that end an answer
 * @param maxLength number of tokens that the model can hold; the context is at most LLaMA-Factory's 4096
 * @param from the weights beside it. Default: the folder, of safetensors
 */
export function modelfileOf(
  template: Template,
  tokens: NamedTokens,
  stops: readonly string[],
  maxLength: number,
  from = '.',
): string {
  const {prefix, system, user, assistant, defaultSystem} = template;
  const slots = (turn: readonly Slot[], content: string) =>
    turn.map((slot) => textAround(slot, tokens).join(`{{ ${content} }}`)).join('');
  const turns =
    `${slots(prefix, '')}{{ if .System }}${slots(system, '.System')}{{ end }}` +
    `{{ range .Messages }}{{ if eq .Role "user" }}${slots(user, '.Content')}` +
    `{{ else if eq .Role "assistant" }}${slots(assistant, '.Content')}{{ end }}{{ end }}`;
  return [
    `${TITLE}\nFROM ${from}\n\nTEMPLATE """${turns}"""\n\n`,
    defaultSystem && `SYSTEM """${defaultSystem}"""\n\n`,
    ...stops.map((stop) => `PARAMETER stop "${stop}"\n`),
    `PARAMETER num_ctx ${Math.min(4096, maxLength)}\n`,
  ].join('');
}
