import {PythonPattern} from './patterns/pythonPattern.ts';

/** Place where a match may end, as in transformers: before or after a dot, or at the end of the name. */
const BOUNDARY = String.raw`(?:(?<=\.)|(?=\.|$))`;

/**
 * Returns whether a list of `llm_int8_skip_modules` leaves a module unquantized, as `should_convert_module` of
 * transformers 5 does. The module's name must end with an entry, letter for letter, or begin with a match of the entry
 * as a regular expression, up to a dot or the name's end: `layer.1` also matches `layer.1.attn`, but not `layer.11`.
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
