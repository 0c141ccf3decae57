import type {Command, Option} from 'commander';
import {recipeSchema} from '../recipes/recipeKeys.ts';

/** A word that can be completed, with its description. */
interface Word {
  word: string;
  description: string;
}

interface OptionWord extends Word {
  takesValue: boolean;
  choices: Word[];
}

/** What can follow a command. */
interface Completions {
  /** Names that lead to the command: none for the program, `['setup', 'tensorflow']`. */
  path: string[];
  commands: Word[];
  options: OptionWord[];
  /** The values of its argument, if they are known. */
  choices: Word[];
  /** Whether recipe keys can follow. */
  takesKeys: boolean;
}

/** Makes the script that completes a program's command lines, by shell. Files are completed where nothing else fits. */
export const COMPLETION_SCRIPTS = {bash, zsh, fish};

export type Shell = keyof typeof COMPLETION_SCRIPTS;

const KEYS = Object.keys(recipeSchema.shape).map((key) => `${key}=`);

function bash(program: Command): string {
  const all = completionsOf(program);
  const list: List = (words) => `words=${quoted(namesOf(words))}`;
  return `_tfjs_lora() {
  local current=\${COMP_WORDS[COMP_CWORD]} previous=\${COMP_WORDS[COMP_CWORD-1]} command='' words='' word
  local keys=${quoted(KEYS.join(' '))}
  if [[ $current == = || $previous == = ]]; then return; fi
  for word in "\${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case "$command/$word" in
      ${commandPatterns(all)}) command="\${command:+$command }$word" ;;
    esac
  done
  case "$command/$previous" in
${valueCases(all, list, 'return')}
    *)
      case "$command/$current" in
${wordCases(all, list, 'words=$keys')}
      esac ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
  if [[ \${COMPREPLY[0]} == *= ]]; then compopt -o nospace 2>/dev/null || true; fi
}
complete -o default -F _tfjs_lora tfjs-lora`;
}

function zsh(program: Command): string {
  const all = completionsOf(program);
  const describe: List = (words) =>
    `candidates=(${words.map(({word, description}) => quoted(`${word}:${description}`)).join(' ')})`;
  return `#compdef tfjs-lora
_tfjs_lora() {
  local command='' previous=\${words[CURRENT-1]} word
  local -a candidates keys
  local -ar all_keys=(${KEYS.join(' ')})
  for word in \${words[2,CURRENT-1]}; do
    case "$command/$word" in
      ${commandPatterns(all)}) command="\${command:+$command }$word" ;;
    esac
  done
  case "$command/$previous" in
${valueCases(all, describe, '_files; return')}
    *)
      case "$command/\${words[CURRENT]}" in
${wordCases(all, describe, 'keys=($all_keys)')}
      esac ;;
  esac
  if compset -P '*='; then _files; return; fi
  (( \${#keys} )) && compadd -S '' -a keys
  (( \${#candidates} )) && _describe tfjs-lora candidates
  _files
}
if [[ $funcstack[1] == _tfjs_lora ]]; then _tfjs_lora "$@"; else compdef _tfjs_lora tfjs-lora; fi`;
}

function fish(program: Command): string {
  const lines = completionsOf(program).flatMap(({path, commands, options, choices, takesKeys}) => {
    const seen = path.map((name) => `__fish_seen_subcommand_from ${name}`);
    const notBelow =
      commands.length > 0
        ? [`not __fish_seen_subcommand_from ${namesOf(commands.filter(({word}) => word !== 'help'))}`]
        : [];
    const complete = `complete -c tfjs-lora -n ${quoted([...seen, ...notBelow].join('; and '))}`;
    return [
      ...commands.map(({word, description}) => `${complete} -f -a ${word} -d ${quoted(description)}`),
      ...options.map((option) => `${complete} ${fishOption(option)}`),
      ...(choices.length > 0 ? [`${complete} -f -a ${quoted(namesOf(choices))}`] : []),
      ...(takesKeys ? [`${complete} -a ${quoted(KEYS.join(' '))}`] : []),
    ];
  });
  return lines.join('\n');
}

function fishOption({word, description, takesValue, choices}: OptionWord): string {
  const name = word.startsWith('--') ? `-l ${word.slice(2)}` : `-s ${word.slice(1)}`;
  const value = choices.length > 0 ? ` -x -a ${quoted(namesOf(choices))}` : takesValue ? ' -r' : '';
  return `${name}${value} -d ${quoted(description)}`;
}

/** Lists what can follow the program and each of its commands. After `help`, the program's commands can follow. */
function completionsOf(program: Command): Completions[] {
  const help = program.createHelp();
  const below = (command: Command, path: string[]): Completions[] => {
    const commands = help.visibleCommands(command);
    const {registeredArguments} = command;
    const own: Completions = {
      path,
      commands: commands.map((each) => ({word: each.name(), description: summaryOf(each)})),
      options: [...help.visibleOptions(command), ...help.visibleGlobalOptions(command)].flatMap(optionWords),
      choices: registeredArguments.flatMap(({argChoices}) => wordsOf(argChoices)),
      takesKeys: registeredArguments.some((argument) => argument.name() === 'key=value'),
    };
    return [own, ...command.commands.flatMap((each) => below(each, [...path, each.name()]))];
  };
  return below(program, []);
}

function optionWords({short, long, description, required, argChoices}: Option): OptionWord[] {
  const option = {description, takesValue: required, choices: wordsOf(argChoices)};
  return [short, long].flatMap((word) => (word ? [{word, ...option}] : []));
}

const wordsOf = (names: readonly string[] = []): Word[] => names.map((word) => ({word, description: ''}));

const namesOf = (words: readonly Word[]): string => words.map(({word}) => word).join(' ');

/** Returns the first clause of a command's description. */
const summaryOf = (command: Command): string => command.description().replace(/[.:](\s.*)?$/s, '');

/** Writes the patterns of `command/word` for which the word is a command too. */
const commandPatterns = (all: Completions[]): string =>
  all
    .filter(({path}) => path.length > 0)
    .map(({path}) => quoted(`${path.slice(0, -1).join(' ')}/${path.at(-1)}`))
    .join('|');

/** Writes the assignment of the words that can come. */
type List = (words: readonly Word[]) => string;

/** Writes the cases of `command/previous` in which the previous word is an option that has a value. */
function valueCases(all: Completions[], list: List, files: string): string {
  return all
    .flatMap(({path, options}) =>
      options
        .filter(({takesValue}) => takesValue)
        .map(({word, choices}) => {
          const action = choices.length > 0 ? list(choices) : files;
          return `    ${quoted(`${path.join(' ')}/${word}`)}) ${action} ;;`;
        }),
    )
    .join('\n');
}

/** Writes the cases of `command/current`, for options and for other words. Keys follow the first argument, a file. */
function wordCases(all: Completions[], list: List, keys: string): string {
  return all
    .flatMap(({path, commands, options, choices, takesKeys}) => {
      const place = quoted(`${path.join(' ')}/`);
      const words = takesKeys
        ? `if [[ $previous != ${path.at(-1)} ]]; then ${keys}; fi`
        : list([...commands, ...choices]);
      return [`        ${place}-*) ${list(options)} ;;`, `        ${place}*) ${words} ;;`];
    })
    .join('\n');
}

/** Quotes a text so that each of the three shells reads it as one word. */
const quoted = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`;
