import {maskSecrets} from '../../../quant/maskSecrets.ts';

/**
 * Returns this command line as it can be typed again, with other values of a recipe's keys.
 *
 * @param args arguments without the interpreter and the program's name
 * @param overrides `key=value`; each replaces an argument with the same key
 */
export function commandWith(args: readonly string[], ...overrides: string[]): string {
  const keys = overrides.map(keyOf);
  const kept = args.filter((arg) => arg !== '--dry-run' && !keys.includes(keyOf(arg)));
  return commandLine(...kept, ...overrides);
}

/** Returns a command line of this program as it can be typed. */
export function commandLine(...args: string[]): string {
  return maskSecrets([...program(), ...args].map(quoted).join(' '));
}

const keyOf = (arg: string): string | undefined => /^([a-z_]\w*)=/.exec(arg)?.[1];

/** Returns the words that run this program. npm sets the variable if `npx` started it. */
const program = (): string[] => [...(process.env.npm_command === 'exec' ? ['npx'] : []), 'tfjs-lora'];

/** Quotes an argument so that a POSIX shell reads it as one word. */
const quoted = (word: string): string =>
  /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
