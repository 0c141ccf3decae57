import {Command} from 'commander';

/** Returns a heading of the help in bold. Commander makes it plain where colours are not wanted. */
export const bold = (text: string): string => `\x1b[1m${text}\x1b[22m`;

/** Returns an error for standard error in red, if the terminal, `NO_COLOR` and `FORCE_COLOR` allow colours. */
export function red(text: string): string {
  return new Command().configureOutput().getErrHasColors?.() ? `\x1b[31m${text}\x1b[39m` : text;
}
