import {TfjsLoraError} from './errors.ts';
import {adviceFor} from './foreignOptions.ts';
import {show} from './show.ts';

/**
 * Every option that a call takes, each with its declaration or `true`. The type keeps the list complete:
 * `{rank: true, …} satisfies OptionNames<Args>`.
 */
export type OptionNames<T> = {readonly [name in keyof Required<T>]: true | object};

/**
 * Refuses options that a call does not have: a typo, another library's spelling, an option of another call. An option
 * whose value is undefined passes.
 *
 * @param call name of the function, for messages: `applyLoRA`
 * @param presence whether the options may be left out altogether. Default `optional`
 * @throws TfjsLoraError `INVALID_ARGUMENT` naming the option and the right one
 */
export function assertKnownOptions(
  call: string,
  options: unknown,
  known: OptionNames<object>,
  presence: 'optional' | 'required' = 'optional',
): void {
  if (options === undefined && presence === 'optional') return;
  if (typeof options !== 'object' || options === null || Array.isArray(options)) {
    const got = options == null ? (options === null ? 'null' : 'none') : kindOf(options);
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `${call} options: expected an object such as {${Object.keys(known)[0] ?? ''}: …}, got ${got}`,
    );
  }
  for (const [name, value] of Object.entries(options)) {
    if (value === undefined) continue;
    if (Object.hasOwn(known, name)) {
      assertUsual(call, name, value);
      continue;
    }
    const names = Object.keys(known);
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `${call} ${name.slice(0, LONGEST_NAME)}: expected ${listOf(names)}, got an option that ${call} does not have. ` +
        adviceFor(name.slice(0, LONGEST_NAME), names),
    );
  }
}

const kindOf = (value: unknown): string => (Array.isArray(value) ? 'an array' : `a ${typeof value}`);

/** Options that take any text, even `true`: a server's client may stop an answer there. */
const TEXTS: ReadonlySet<string> = new Set([
  'adapterName',
  'adapterNames',
  'apiKey',
  'caption',
  'dataset',
  'evaluationDataset',
  'modelName',
  'name',
  'rawLabel',
  'stopStrings',
  'subtitle',
  'system',
  'title',
  'token',
  'valueLabel',
]);

/**
 * Refuses values that no option of this name or kind has, although they would pass for true: the texts `true` and
 * `false`, as a command line or the environment gives them, and a controller in place of its signal.
 */
function assertUsual(call: string, name: string, value: unknown): void {
  const isBoolean = (value === 'true' || value === 'false') && !TEXTS.has(name);
  const isSignal = name !== 'signal' || typeof Object(value).aborted === 'boolean';
  if (!isBoolean && isSignal) return;
  throw new TfjsLoraError(
    'INVALID_ARGUMENT',
    isBoolean
      ? `${call} ${name}: expected true or false, got the text ${show(value)}. Write it without quotes.`
      : `${call} signal: expected an AbortSignal, got ${show(value)}. Pass controller.signal.`,
  );
}

/** Characters of an unknown option's name in a message. It is more than any real option needs. */
const LONGEST_NAME = 60;

/** A class that lists the options of its constructor. */
interface WithOptionNames {
  readonly name: string;
  readonly optionNames?: OptionNames<object>;
}

/**
 * Does what {@link assertKnownOptions} does, for a constructor; the base class calls it with `new.target`. The options
 * of a subclass that lists no `optionNames` of its own are unknown here, so they are not checked.
 *
 * @throws TfjsLoraError `INVALID_ARGUMENT` naming the option and the right one
 */
export function assertKnownArgs(made: WithOptionNames, args: unknown): void {
  if (!Object.hasOwn(made, 'optionNames')) return;
  assertKnownOptions(made.name, args, made.optionNames as OptionNames<object>);
}

function listOf(names: string[]): string {
  if (names.length === 0) return 'no options';
  return names.length === 1 ? names[0] : `some of ${names.join(', ')}`;
}
