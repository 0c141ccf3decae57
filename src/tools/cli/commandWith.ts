import {maskSecrets} from '../../../quant/maskSecrets.ts';

/**
 * This command line as it may be typed again, with other values of a recipe's keys.
 *
 * @param args without the interpreter and the program's name
 * @param overrides `key=value`; they replace those of the same key
 */
export function commandWith(args: readonly string[], ...overrides: string[]): string {
  const keys = overrides.map(keyOf);
  const kept = args.filter((arg) => arg !== '--dry-run' && !keys.includes(keyOf(arg)));
  return commandLine(...kept, ...overrides);
}

/** A command line of this program as it may be typed. */
export function commandLine(...args: string[]): string {
  return maskSecrets([...program(), ...args].map(quoted).join(' '));
}

const keyOf = (arg: string): string | undefined => /^([a-z_]\w*)=/.exec(arg)?.[1];

/** npm says so where it ran the program for `npx`. */
const program = (): string[] => [...(process.env.npm_command === 'exec' ? ['npx'] : []), 'tfjs-lora'];

/** As a POSIX shell takes it for one word. */
const quoted = (word: string): string =>
  /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
