import {TfjsLoraError} from '../quant/errors.ts';
import {show} from '../quant/show.ts';

/**
 * Checks the ids and the length of token sequences against a model.
 *
 * @throws TfjsLoraError `VOCABULARY_MISMATCH` for an id that the model does not have, `INVALID_ARGUMENT` for a sequence
 *   longer than `maxPositionEmbeddings`
 */
export function assertInputIds(
  rows: ArrayLike<number>[],
  {vocabSize, maxPositionEmbeddings}: {vocabSize: number; maxPositionEmbeddings: number},
): void {
  for (const [row, ids] of rows.entries()) {
    if (ids.length > maxPositionEmbeddings) {
      throw new TfjsLoraError(
        'INVALID_ARGUMENT',
        `sequence ${row}: expected at most ${maxPositionEmbeddings} tokens (max_position_embeddings), ` +
          `got ${ids.length}. Truncate it.`,
      );
    }
    for (let t = 0; t < ids.length; t++) {
      if (Number.isInteger(ids[t]) && ids[t] >= 0 && ids[t] < vocabSize) continue;
      throw new TfjsLoraError(
        'VOCABULARY_MISMATCH',
        `token ${t} of sequence ${row}: expected an id from 0 to ${vocabSize - 1}, got ${ids[t]}. ` +
          'Use the tokenizer that belongs to the model.',
      );
    }
  }
}

/** Checks that rows of token ids form a matrix. */
export function assertRows(what: string, rows: number[][]): void {
  if (!Array.isArray(rows) || !rows.every(Array.isArray)) {
    throw new TfjsLoraError(
      'SHAPE_MISMATCH',
      `${what}: expected rows [B, T] of token ids, got ${show(rows)}`,
    );
  }
  const lengths = [...new Set(rows.map((row) => row.length))];
  if (lengths.length === 1 && lengths[0] > 0) return;
  throw new TfjsLoraError(
    'SHAPE_MISMATCH',
    `${what}: expected rows of one length with at least one token, got [${rows.length}, ${lengths.join(' or ') || 0}]`,
  );
}
