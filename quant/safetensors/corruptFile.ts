import {TfjsLoraError} from '../errors.ts';

const FETCH_AGAIN = 'The file is damaged or incomplete: download or save it again.';

/** Makes a `CORRUPT_FILE` error: `[what] [path]: [fault]. [what to do]`. */
export function corruptFile(
  what: string,
  path: string,
  fault: string,
  advice = FETCH_AGAIN,
  options?: ErrorOptions,
): TfjsLoraError {
  return new TfjsLoraError('CORRUPT_FILE', `${what} [${path}]: ${fault}. ${advice}`, options);
}
