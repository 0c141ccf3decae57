import type {Tokenizer} from '../../../models/tokenizer.ts';
import {nearestNames, TfjsLoraError} from '../../../quant/errors.ts';
import {assertKnownOptions, type OptionNames} from '../../../quant/knownOptions.ts';
import {show} from '../../../quant/show.ts';
import {warn} from '../../../quant/warn.ts';
import {BUILTIN_TEMPLATES} from './builtinTemplates.ts';
import {completeTemplate, TEMPLATE_OPTIONS, type Template, type TemplateArgs} from './template.ts';
import {type ThoughtOptions, writesThoughts} from './thoughts.ts';
import {formatDate} from './toolFormats.ts';

/** The name that selects the tokenizer's own chat template. */
export const MODEL_TEMPLATE = 'model';

const templates = new Map<string, Template>();
for (const [name, args] of Object.entries(BUILTIN_TEMPLATES))
  templates.set(name, completeTemplate(name, args));

/** A template ready for use: a registered one, or the tokenizer's own chat template. Plain data, as workers need it. */
export type ResolvedTemplate = {dateString: string} & (
  | {kind: 'slots'; template: Template; thoughts?: ThoughtOptions}
  | {kind: 'chat'; defaultSystem: string}
);

export interface ResolveTemplateOptions extends ThoughtOptions {
  /** System text that replaces the template's own. */
  defaultSystem?: string;
  /** Today's date for templates that print one, such as `26 Jul 2024`. Default: today. */
  dateString?: string;
}
const RESOLVE_OPTIONS = {
  defaultSystem: true,
  dateString: true,
  enableThinking: true,
  preserveThinking: true,
} satisfies OptionNames<ResolveTemplateOptions>;

/**
 * Registers a template under a name. Registering equal contents again does nothing, so that a notebook's cell may run
 * twice.
 *
 * @throws TfjsLoraError `INVALID_ARGUMENT` when another template has the name, or a turn lacks its `{{content}}`
 * @example
 * ```ts
 * import {registerTemplate} from 'tfjs-lora/data';
 *
 * registerTemplate('dialogue', {
 *   prefix: [{special: 'bos'}],
 *   user: ['Q: {{content}}\nA:'],
 *   assistant: [' {{content}}', {special: 'eos'}],
 * });
 * ```
 */
export function registerTemplate(name: string, args: TemplateArgs): void {
  assertKnownOptions('registerTemplate', args, TEMPLATE_OPTIONS);
  const template = completeTemplate(name, args);
  const known = templates.get(name);
  if (known && JSON.stringify(known) === JSON.stringify(template)) return;
  if (!name || known || name === MODEL_TEMPLATE) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `registerTemplate name: expected a new name, got '${name}', ` +
        `with ${[...templateNames(), MODEL_TEMPLATE].join(', ')} taken. Choose another.`,
    );
  }
  for (const turn of ['system', 'user', 'assistant', 'function', 'observation'] as const) {
    const slots = template[turn];
    if (
      Array.isArray(slots) &&
      slots.some((slot) => typeof slot === 'string' && slot.includes('{{content}}'))
    )
      continue;
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `registerTemplate ${name} ${turn}: expected a slot with {{content}}, got ${show(template[turn])}`,
    );
  }
  if (template.replaceEos && template.stopWords.length === 0) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `registerTemplate ${name} stopWords: expected the token that replaces the end of sequence, got none`,
    );
  }
  templates.set(name, template);
}

/**
 * Returns a registered template.
 *
 * @throws TfjsLoraError `INVALID_ARGUMENT` with the nearest names for an unknown name
 */
export function getTemplate(name: string): Template {
  const template = templates.get(name);
  if (template) return template;
  throw new TfjsLoraError(
    'INVALID_ARGUMENT',
    `template ${name}: expected one of ${templateNames().join(', ')}, or ${MODEL_TEMPLATE} for the tokenizer's own, ` +
      `got '${name}'. Nearest: ${nearestNames(name, [...templateNames(), MODEL_TEMPLATE], 1)}. ` +
      'Add others with registerTemplate.',
  );
}

/** Returns the names of all registered templates, in order of registration. */
export function templateNames(): string[] {
  return [...templates.keys()];
}

/**
 * Returns the template for a name.
 *
 * @param name a registered name; `model` or undefined selects the tokenizer's own chat template, and undefined selects
 *   `empty` when there is none
 * @throws TfjsLoraError `INVALID_ARGUMENT` for an unknown name, `UNSUPPORTED` for `model` without a chat template
 */
export function resolveTemplate(
  name: string | undefined,
  tokenizer: Tokenizer,
  options: ResolveTemplateOptions = {},
): ResolvedTemplate {
  assertKnownOptions('resolveTemplate', options, RESOLVE_OPTIONS);
  const {defaultSystem, dateString = formatDate(new Date()), enableThinking, preserveThinking} = options;
  if (name === MODEL_TEMPLATE && !tokenizer.hasChatTemplate) {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `template ${MODEL_TEMPLATE}: expected a tokenizer with a chat template, got one without. ` +
        `Choose one of ${templateNames().join(', ')}.`,
    );
  }
  if (name === MODEL_TEMPLATE || (name === undefined && tokenizer.hasChatTemplate)) {
    if ((enableThinking === false || preserveThinking) && writesThoughts(tokenizer)) {
      const key = enableThinking === false ? 'enableThinking' : 'preserveThinking';
      throw new TfjsLoraError(
        'UNSUPPORTED',
        `template ${MODEL_TEMPLATE} ${key}: expected ${key === 'enableThinking'} under this model's chat template, which ` +
          `writes <think>, got ${options[key]}. Choose a template by name.`,
      );
    }
    return {kind: 'chat', defaultSystem: defaultSystem ?? '', dateString};
  }
  if (name === undefined)
    warn("template: none was chosen and the tokenizer has no chat template, so the template 'empty' is used");
  const template = getTemplate(name ?? 'empty');
  warnOfMissingTokens(template, tokenizer);
  return {
    kind: 'slots',
    template: defaultSystem === undefined ? template : {...template, defaultSystem},
    thoughts: {enableThinking, preserveThinking},
    dateString,
  };
}

function warnOfMissingTokens({name, stopWords, replaceEos}: Template, tokenizer: Tokenizer): void {
  const missing = stopWords.filter((word) => tokenizer.tokenToId(word) === undefined);
  if (missing.length === 0 || (replaceEos && missing[0] !== stopWords[0])) return;
  warn(
    `template ${name}: ${missing.join(', ')} ${missing.length === 1 ? 'is not a token' : 'are not tokens'} of this tokenizer ` +
      'and will be tokenized as ordinary text. Use the template that belongs to the model.',
  );
}
