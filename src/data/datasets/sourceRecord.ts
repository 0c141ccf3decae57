import {TfjsLoraError} from '../../../quant/errors.ts';

/** One record as a file holds it. */
export interface SourceRecord {
  /** Values, with JSON numbers as `parsePythonJson` reads them. */
  value: Record<string, unknown>;
  file: string;
  /** Index from 0. */
  index: number;
  /** Line where it begins, from 1, in formats that have lines. */
  line?: number;
}

/** Maximum size of a record in bytes; a file with an unclosed quote or bracket would otherwise be read whole. */
const MOST_BYTES = 2 ** 26;

/** Writes a record's place: `data/train.json record 17 (line 52)`. */
export function placeOf({file, index, line}: Omit<SourceRecord, 'value'>): string {
  return `${file} record ${index}${line === undefined ? '' : ` (line ${line})`}`;
}

/**
 * Checks a record's size.
 *
 * @throws TfjsLoraError `CORRUPT_FILE` for a record of more than 64 MiB
 */
export function assertRecordSize(bytes: number, place: Omit<SourceRecord, 'value'>): void {
  if (bytes <= MOST_BYTES) return;
  throw new TfjsLoraError(
    'CORRUPT_FILE',
    `${placeOf(place)}: expected a record of at most ${MOST_BYTES} bytes, got more. Look for a quote or bracket that is ` +
      'not closed.',
  );
}
