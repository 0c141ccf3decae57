import {TfjsLoraError} from '../../quant/errors.ts';
import {show} from '../../quant/show.ts';
import {backtrackingFault} from './backtracking.ts';
import {parsePattern} from './parsePattern.ts';

/** The parts of a `tokenizer.json` that contain regular expressions. */
const SECTIONS = ['normalizer', 'pre_tokenizer', 'post_processor', 'decoder'];

/**
 * Refuses a `tokenizer.json` with a regular expression that may run for ages, because JavaScript's own engine runs it
 * over any text. The expressions of all widely used tokenizers pass.
 *
 * @param path the file, for messages
 * @throws TfjsLoraError `UNSUPPORTED` naming the pattern; `CORRUPT_FILE` for one that is neither text nor expression,
 *   which would be ignored
 */
export function assertTokenizerPatterns(tokenizer: Readonly<Record<string, unknown>>, path: string): void {
  for (const section of SECTIONS) {
    for (const {Regex: pattern, String: text, ...others} of patternsIn(tokenizer[section])) {
      if (typeof text === 'string' && pattern === undefined) continue;
      if (typeof pattern !== 'string') {
        const got = show(pattern ?? text ?? others);
        throw new TfjsLoraError(
          'CORRUPT_FILE',
          `${path} ${section}: expected a pattern {"String"} or {"Regex"}, got ${got}`,
        );
      }
      const fault = faultOf(pattern);
      if (fault === undefined) continue;
      throw new TfjsLoraError(
        'UNSUPPORTED',
        `${path} ${section}: expected regular expressions that finish quickly on any text, got ${show(pattern)}, with ` +
          `${fault}. Write it without.`,
      );
    }
  }
}

function* patternsIn(value: unknown): Generator<Record<string, unknown>> {
  if (typeof value !== 'object' || value === null) return;
  for (const [key, item] of Object.entries(value)) {
    if (key !== 'pattern') yield* patternsIn(item);
    else yield typeof item === 'object' && item !== null ? item : {pattern: item};
  }
}

function faultOf(pattern: string): string | undefined {
  try {
    return backtrackingFault(parsePattern(pattern, 'oniguruma'));
  } catch (fault) {
    if (fault instanceof SyntaxError) return fault.message;
    throw fault;
  }
}
