import {TfjsLoraError} from '../quant/errors.ts';
import {show} from '../quant/show.ts';

/**
 * Returns the adapter of each row.
 *
 * @param call for messages
 * @param given one name for all rows, or a name for each
 * @throws TfjsLoraError `INVALID_ARGUMENT` for another number of names than rows
 */
export function namesOfRows(
  call: string,
  given: string | readonly string[],
  rows: number,
): readonly string[] {
  if (typeof given === 'string') return Array(rows).fill(given);
  if (Array.isArray(given) && given.length === rows) return given;
  const got = Array.isArray(given) ? `${given.length}` : show(given);
  throw new TfjsLoraError(
    'INVALID_ARGUMENT',
    `${call} adapterNames: expected one name, or a name for each of ${rows} rows, got ${got}`,
  );
}
