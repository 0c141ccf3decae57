import * as tf from '@tensorflow/tfjs';
import {takeRows} from '../layers/ops/takeRows.ts';
import {uploadEarly} from '../layers/ops/uploadEarly.ts';
import type {ValueHead} from '../layers/valueHead.ts';
import {TfjsLoraError} from '../quant/errors.ts';
import {assertKnownOptions, type OptionNames} from '../quant/knownOptions.ts';
import {assertInputIds, assertRows} from './assertInputIds.ts';
import type {Batch} from './batch.ts';
import {type LossModel, scoresOf, toRows, valueHeadOf} from './batchLoss.ts';
import {dropoutSeed} from './dropoutSeed.ts';

/** A batch without labels. */
export type ValueBatch = Pick<Batch, 'inputIds' | 'attentionMask' | 'positionIds'>;

export interface ValueOptions {
  /** The position of each row to score. Default: all positions. */
  at?: number[];
  /** Head to run instead of the model's own, such as a reward model's. */
  head?: ValueHead;
  /** Whether dropout and recomputation are on. Default false. */
  training?: boolean;
  /** Seed that makes dropout repeatable. */
  seed?: number;
}
const VALUE_OPTIONS = {
  at: true,
  head: true,
  training: true,
  seed: true,
} satisfies OptionNames<ValueOptions>;

/** Runs a value head on the hidden states of a batch; see `CausalLM.values`. */
export function valuesOf(model: LossModel, batch: ValueBatch, options: ValueOptions): tf.Tensor {
  assertKnownOptions('values', options, VALUE_OPTIONS);
  const {at, head = valueHeadOf(model), ...given} = options;
  const rows = toRows(batch as Batch, 'inputIds');
  assertRows('values inputIds', rows);
  assertInputIds(rows, model.config);
  const length = rows[0].length;
  if (at) assertPositions(at, rows.length, length);
  const pass = {...given, seed: dropoutSeed(given.seed)};
  return tf.tidy(() => {
    const places =
      at &&
      tf.tensor1d(
        at.map((position, row) => row * length + position),
        'int32',
      );
    if (places) uploadEarly(places);
    const inputIds = tf.tensor2d(rows, undefined, 'int32');
    const masks = batch.attentionMask && toRows(batch as Batch, 'attentionMask');
    const attentionMask = masks && tf.tensor2d(masks, [rows.length, length], 'int32');
    const positionIds = batch.positionIds && toRows(batch as Batch, 'positionIds');
    const hidden = model.forward(inputIds, {attentionMask, positionIds, ...pass}); // [B, T, C]
    const flat = hidden.reshape([-1, hidden.shape[2]]) as tf.Tensor2D; // [B·T, C]
    if (places) return scoresOf(head, takeRows(flat, places), pass); // [B]
    return scoresOf(head, flat, pass).reshape([rows.length, length]); // [B, T]
  });
}

function assertPositions(at: number[], rows: number, length: number): void {
  const isRight = at.length === rows && at.every((t) => Number.isInteger(t) && t >= 0 && t < length);
  if (isRight) return;
  throw new TfjsLoraError(
    'SHAPE_MISMATCH',
    `values at: expected ${rows} positions from 0 to ${length - 1}, one for each row, got [${at}]`,
  );
}
