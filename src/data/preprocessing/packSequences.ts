import {IGNORE_INDEX} from '../../../models/ignoreIndex.ts';
import type {Tokenizer} from '../../../models/tokenizer.ts';
import {assertIds, type Example} from '../batches/collate.ts';

/** Number of examples packed together: LLaMA-Factory's `preprocessing_batch_size`. */
export const PACKED_TOGETHER = 1000;

/**
 * Packs examples of one kind, in groups of {@link PACKED_TOGETHER}: plain text (`pt`) is joined and cut into rows, other
 * examples share rows as {@link packSequences} chooses.
 *
 * @param capacity number of tokens in a row
 */
export function packExamples(
  stage: 'sft' | 'pt',
  examples: readonly Example[],
  capacity: number,
  {addsBosToken, bosTokenId}: Pick<Tokenizer, 'addsBosToken' | 'bosTokenId'>,
): Example[] {
  const rows: Example[] = [];
  for (let at = 0; at < examples.length; at += PACKED_TOGETHER) {
    const group = examples.slice(at, at + PACKED_TOGETHER);
    if (stage === 'sft') rows.push(...packSequences(group, capacity));
    else {
      const texts = group.map(({inputIds}) => inputIds);
      rows.push(...packTexts(texts, capacity, addsBosToken ? bosTokenId : undefined));
    }
  }
  return rows;
}

/**
 * Packs sequences into few rows: each pack repeatedly takes the longest sequence that still fits, as in LLaMA-Factory's
 * greedy knapsack. Sequences do not attend to each other: the attention mask numbers them 1, 2, 3 … and positions start
 * from 0 in each.
 *
 * @param capacity number of tokens in a pack; longer sequences are left out
 */
export function packSequences(examples: readonly Example[], capacity: number): Example[] {
  for (const [index, example] of examples.entries()) assertIds('packSequences', example, index);
  return packs(
    examples.map(({inputIds}) => inputIds.length),
    capacity,
  ).map((members) => join(members.map((i) => examples[i])));
}

/** Returns the indices of the sequences in each pack. */
function packs(lengths: number[], capacity: number): number[][] {
  // Sequences of the same length form a stack; the last one goes first.
  const waiting = new Map<number, number[]>();
  for (const [i, length] of lengths.entries()) {
    if (length > capacity) continue;
    const line = waiting.get(length);
    if (line) line.push(i);
    else waiting.set(length, [i]);
  }
  const sizes = [...waiting.keys()].sort((a, b) => a - b);
  const result: number[][] = [];
  while (sizes.length > 0) {
    const members: number[] = [];
    let room = capacity;
    for (let at = lastAtMost(sizes, room); at >= 0; at = lastAtMost(sizes, room)) {
      const line = waiting.get(sizes[at]) as number[];
      members.push(line.pop() as number);
      room -= sizes[at];
      if (line.length === 0) sizes.splice(at, 1);
    }
    result.push(members);
  }
  return result;
}

/** Returns the index of the largest of ascending numbers that is at most `limit`, or −1. */
function lastAtMost(ascending: number[], limit: number): number {
  let [low, high] = [0, ascending.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (ascending[middle] <= limit) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

function join(members: Example[]): Example {
  return {
    inputIds: members.flatMap(({inputIds}) => inputIds),
    // A sequence's first token is not predicted, because another sequence precedes it.
    labels: members.flatMap(({inputIds, labels = inputIds}) => [IGNORE_INDEX, ...labels.slice(1)]),
    attentionMask: members.flatMap(({inputIds}, i) => inputIds.map(() => i + 1)),
    positionIds: members.flatMap(({inputIds}) => inputIds.map((_, t) => t)),
  };
}

/**
 * Cuts consecutive texts into blocks of equal length and drops the rest at the end.
 *
 * @param firstTokenId token that replaces each block's first token
 */
export function packTexts(texts: readonly number[][], blockLength: number, firstTokenId?: number): Example[] {
  const all = texts.flat();
  const blocks: Example[] = [];
  for (let at = 0; at + blockLength <= all.length; at += blockLength) {
    const inputIds = all.slice(at, at + blockLength);
    if (firstTokenId !== undefined) inputIds[0] = firstTokenId;
    blocks.push({inputIds});
  }
  return blocks;
}
