/** One record as a file holds it. */
export interface SourceRecord {
  value: Record<string, unknown>;
  file: string;
  /** From 0. */
  index: number;
  /** Where it begins in the file, from 1, where the format has lines. */
  line?: number;
}

/** `data/train.json record 17 (line 52)` */
export function placeOf({file, index, line}: Omit<SourceRecord, 'value'>): string {
  return `${file} record ${index}${line === undefined ? '' : ` (line ${line})`}`;
}
