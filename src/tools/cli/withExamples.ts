import type {Command} from 'commander';

/** Adds command lines to the end of a command's help, each with what it does. */
export function withExamples(command: Command, ...examples: [line: string, effect: string][]): Command {
  const lines = examples.map(([line, effect]) => `\n  ${line}\n      ${effect}`);
  return command.addHelpText(
    'after',
    ({command: shown}) => `\n${shown.createHelp().styleTitle('Examples:')}${lines.join('')}`,
  );
}
