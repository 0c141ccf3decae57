import {TfjsLoraError} from '../../../quant/errors.ts';

/** One record as a file holds it. */
export interface SourceRecord {
  /** Numbers of JSON as `parsePythonJson` reads them. */
  value: Record<string, unknown>;
  file: string;
  /** From 0. */
  index: number;
  /** Where it begins in the file, from 1, where the format has lines. */
  line?: number;
}

/** Bytes of a record at most; a file whose quotes or brackets do not close would be kept whole. */
const MOST_BYTES = 2 ** 26;

/** `data/train.json record 17 (line 52)` */
export function placeOf({file, index, line}: Omit<SourceRecord, 'value'>): string {
  return `${file} record ${index}${line === undefined ? '' : ` (line ${line})`}`;
}

/** @throws TfjsLoraError `CORRUPT_FILE` for a record of more than 64 MiB */
export function assertRecordSize(bytes: number, place: Omit<SourceRecord, 'value'>): void {
  if (bytes <= MOST_BYTES) return;
  throw new TfjsLoraError(
    'CORRUPT_FILE',
    `${placeOf(place)}: expected a record of at most ${MOST_BYTES} bytes, got more. Look for a quote or bracket that is ` +
      'not closed.',
  );
}
