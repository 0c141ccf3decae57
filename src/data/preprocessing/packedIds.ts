import type {EncodedConversation} from './encodeConversation.ts';

/**
 * Many lists of token ids in one array, which moves between threads without a copy and is written to files directly.
 */
export interface PackedIds {
  /** Two lengths per conversation: of ids and of labels. */
  lengths: Int32Array;
  /** The ids and then the labels of each conversation in turn. */
  values: Int32Array;
}

export function packIds(encoded: readonly EncodedConversation[]): PackedIds {
  const lengths = Int32Array.from(encoded.flatMap(({inputIds, labels}) => [inputIds.length, labels.length]));
  const values = new Int32Array(lengths.reduce((sum, length) => sum + length, 0));
  let at = 0;
  for (const {inputIds, labels} of encoded) {
    values.set(inputIds, at);
    values.set(labels, at + inputIds.length);
    at += inputIds.length + labels.length;
  }
  return {lengths, values};
}

export function unpackIds({lengths, values}: PackedIds): EncodedConversation[] {
  let at = 0;
  const take = (length: number) => {
    at += length;
    return Array.from(values.subarray(at - length, at));
  };
  return Array.from({length: lengths.length / 2}, (_, i) => ({
    inputIds: take(lengths[2 * i]),
    labels: take(lengths[2 * i + 1]),
  }));
}
