import {type Item, isBatch, type TrainingData} from './batches.ts';
import {isVerdict, rowsOf} from './collate.ts';

/**
 * Returns a fingerprint of a list of examples, computed from their ids and labels; undefined for data that can only be
 * read by iterating. Tensors are not read.
 */
export function dataFingerprint(data: TrainingData): string | undefined {
  if (!Array.isArray(data)) return undefined;
  let [low, high] = [0x811c9dc5, 0x9e3779b1]; // two FNV-1a hashes
  const add = (value: number) => {
    low = Math.imul(low ^ value, 0x01000193);
    high = Math.imul(high ^ value, 0x85ebca6b) + 1;
  };
  const addAll = (values: unknown): void => {
    if (!Array.isArray(values)) return;
    add(values.length);
    for (const value of values) typeof value === 'number' ? add(value) : addAll(value);
  };
  for (const item of data as Item[]) {
    if (isVerdict(item)) add(Number(item.desirable));
    for (const {inputIds, labels} of isBatch(item) ? [item] : rowsOf(item)) {
      addAll(inputIds);
      addAll(labels);
    }
  }
  const hex = (value: number) => (value >>> 0).toString(16).padStart(8, '0');
  return `${data.length}-${hex(low)}${hex(high)}`;
}
