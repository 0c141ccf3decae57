import type {Command} from 'commander';
import {PEERS_NAMES} from '../recipes/foreignKeys.ts';
import {isRecipeKey} from '../recipes/parseRecipe.ts';

/** Commands of LLaMA-Factory and TRL that have another name here, or none. */
const COMMANDS: Readonly<Record<string, string>> = {
  api: 'Use serve.',
  webchat: 'Use chat, or serve.',
  webui: 'Use train, with a recipe.',
  sft: 'Use train, with a recipe.',
  dpo: 'Use train, with a recipe.',
  finetune: 'Use train, with a recipe.',
  'fine-tune': 'Use train, with a recipe.',
  lora: 'Use train, with a recipe.',
  infer: 'Use chat, or eval for predictions.',
  inference: 'Use chat, or eval for predictions.',
  generate: 'Use chat, or eval for predictions.',
  predict: 'Use eval, with a recipe.',
  fuse: 'Use export.',
  convert: 'Use export, or quantize.',
  install: 'Use setup.',
  login: 'Set HF_TOKEN to a token of the hub.',
  merge: 'Use export.',
  env: 'Use doctor.',
  version: 'Use --version.',
};

/**
 * Adds advice to commander's message about a command that another library has, a recipe key that is written as an
 * option, or an option that stands before its command.
 *
 * @param given the command that was given, or the program itself
 */
export function withForeignAdvice(text: string, given: Command): string {
  const [, command = ''] = /unknown command '([^']*)'/.exec(text) ?? [];
  const [, option = ''] = /unknown option '--([^'=]*)/.exec(text) ?? [];
  const advice = Object.hasOwn(COMMANDS, command) ? COMMANDS[command] : adviceForOption(option, given);
  return advice === undefined ? text : `${text.split('\n')[0]}\n${advice}\n`;
}

function adviceForOption(option: string, given: Command): string | undefined {
  const [first] = given.registeredArguments;
  const takesKeys = given.registeredArguments.some((argument) => argument.name() === 'key=value');
  const name = option.replaceAll('-', '_');
  const key = PEERS_NAMES.get(name) ?? name;
  if (takesKeys && isRecipeKey(key))
    return `Write it after the ${first.name()}, without dashes: ${key}=<value>.`;
  const owner = given.commands.find(({options}) => options.some(({long}) => long === `--${option}`));
  return owner && `Write it after its command: ${owner.name()} … --${option}.`;
}
