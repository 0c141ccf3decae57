import {isRecipeKey} from '../recipes/parseRecipe.ts';

/** Commands of LLaMA-Factory and TRL that have another name here, or none. */
const COMMANDS: Readonly<Record<string, string>> = {
  api: 'Use serve.',
  webchat: 'Use chat, or serve.',
  webui: 'Use train, with a recipe.',
  sft: 'Use train, with a recipe.',
  dpo: 'Use train, with a recipe.',
  merge: 'Use export.',
  env: 'Use doctor.',
  version: 'Use --version.',
};

/**
 * Adds advice to commander's message about a command that another library has, or a recipe key that is written as an
 * option.
 *
 * @param takesKeys whether the command takes `key=value` after a recipe
 */
export function withForeignAdvice(text: string, takesKeys: boolean): string {
  const [, command = ''] = /unknown command '([^']*)'/.exec(text) ?? [];
  const [, option = ''] = /unknown option '--([^'=]*)/.exec(text) ?? [];
  const key = option.replaceAll('-', '_');
  const advice = Object.hasOwn(COMMANDS, command)
    ? COMMANDS[command]
    : takesKeys && isRecipeKey(key)
      ? `Write it after the recipe, without dashes: ${key}=<value>.`
      : undefined;
  return advice === undefined ? text : `${text.split('\n')[0]}\n${advice}\n`;
}
