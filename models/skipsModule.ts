import {PythonPattern} from './patterns/pythonPattern.ts';

/** Where a name of transformers' may end: before or behind a dot, or with the whole name. */
const BOUNDARY = String.raw`(?:(?<=\.)|(?=\.|$))`;

/**
 * Which modules a list of `llm_int8_skip_modules` leaves unquantized, as `should_convert_module` of transformers 5 has it: those
 * whose name ends with an entry, letter for letter, and those whose name begins with a match of it as a regular expression,
 * up to a dot or the name's end. `layer.1` is `layer.1.attn` too, but not `layer.11`.
 *
 * @param where names the list in messages
 * @throws TfjsLoraError `INVALID_ARGUMENT` for an entry that Python cannot read as an expression
 */
export function skipsModule(list: readonly string[], where: string): (name: string) => boolean {
  const entries = list.map((entry) => ({
    entry,
    pattern: new PythonPattern(`(?:${entry})${BOUNDARY}`, where),
  }));
  return (name) => entries.some(({entry, pattern}) => name.endsWith(entry) || pattern.match(name));
}
