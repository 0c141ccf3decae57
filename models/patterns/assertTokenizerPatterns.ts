import {TfjsLoraError} from '../../quant/errors.ts';
import {show} from '../../quant/show.ts';
import {backtrackingFault} from './backtracking.ts';
import {parsePattern} from './parsePattern.ts';

/** The parts of a `tokenizer.json` that hold regular expressions. */
const SECTIONS = ['normalizer', 'pre_tokenizer', 'post_processor', 'decoder'];

/**
 * Refuses a `tokenizer.json` with a regular expression that may run for ages: JavaScript's own engine runs them, over
 * whatever text comes. Those of every widespread tokenizer pass.
 *
 * @param path the file, for messages
 * @throws TfjsLoraError `UNSUPPORTED` naming the pattern
 */
export function assertTokenizerPatterns(tokenizer: Readonly<Record<string, unknown>>, path: string): void {
  for (const section of SECTIONS) {
    for (const pattern of patternsIn(tokenizer[section])) {
      const fault = faultOf(pattern);
      if (fault === undefined) continue;
      throw new TfjsLoraError(
        'UNSUPPORTED',
        `${path} ${section}: expected regular expressions that end soon on any text, got ${show(pattern)}, with ` +
          `${fault}. Write it without.`,
      );
    }
  }
}

function* patternsIn(value: unknown): Generator<string> {
  if (typeof value !== 'object' || value === null) return;
  for (const [key, item] of Object.entries(value)) {
    if (key === 'Regex' && typeof item === 'string') yield item;
    else yield* patternsIn(item);
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
