import {readAtOnce} from '../layers/ops/readAtOnce.ts';
import type {Batch} from './batch.ts';

/** Returns the position of each row's last real token. */
export function lastTokens({inputIds, attentionMask}: Pick<Batch, 'inputIds' | 'attentionMask'>): number[] {
  const rows = readAtOnce('batch attentionMask', attentionMask ?? inputIds, 'Pass rows.');
  if (!attentionMask) return rows.map((row) => row.length - 1);
  return rows.map((mask) =>
    Math.max(
      0,
      mask.findLastIndex((real) => real !== 0),
    ),
  );
}
