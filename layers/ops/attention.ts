import * as tf from '@tensorflow/tfjs';
import {TfjsLoraError} from '../../quant/errors.ts';
import {assertShape} from './assertShape.ts';
import {causalBias} from './causalBias.ts';
import {dispatchWithGradient} from './dispatch.ts';
import {op, type Tensors} from './op.ts';
import {softCap as capped} from './softCap.ts';

export const attentionOp = op<
  Tensors<'query' | 'key' | 'value'> & {segments?: tf.TensorInfo},
  ScoreSettings & {causal: boolean},
  tf.Tensor4D
>('Attention').withGradient({
  of: ['query', 'key', 'value'],
  read: ['query', 'key', 'value', 'segments', 'y'],
  isKept: true,
});

/** Settings that kernels compute scores with. */
export interface ScoreSettings {
  scale: number;
  /** 0 if a query sees all keys before it. */
  window: number;
  /** 0 if scores have no bound. */
  softCap: number;
}

/** The largest head size; larger heads do not fit a kernel's registers. */
const MAX_KERNEL_DIM = 128;

/** Whether the attention kernels take heads of this size. */
export const fitsKernel = (dim: number): boolean => dim % 4 === 0 && dim <= MAX_KERNEL_DIM;

/** Options of the scores, which models choose. */
export interface ScoreOptions {
  /** Factor on the scores. Default `1 / sqrt(D)`. */
  scale?: number;
  /** With `causal`, the number of positions that a query sees at most: its own and those before it. Default all. */
  window?: number;
  /** Bound c of the scores s, which become `c · tanh(s / c)`, as in Gemma 2. Default none. */
  softCap?: number;
}

export interface AttentionOptions extends ScoreOptions {
  /** Added to the scores, `[B or 1, 1, T, S]`: 0 where a query may look, a large negative number elsewhere. */
  bias?: tf.Tensor4D;
  /**
   * Without a `bias`: whether a query sees only keys up to its own position; the T queries are the last of the S
   * positions. Default false.
   */
  causal?: boolean;
  /**
   * With `causal`, `[B, S]` int32: 0 is padding, and a query sees only keys with its own number; see
   * {@link causalBias}. A query that sees nothing gets a finite value without meaning.
   */
  segments?: tf.Tensor2D;
  /** Probability of dropping a weight after the softmax during training, as Hugging Face does. Default 0. */
  dropout?: number;
  /** Seed that makes {@link dropout} repeatable. */
  seed?: number;
}

/**
 * Scaled dot-product attention with grouped queries: each of the `K` key-value heads serves `H / K`
 * consecutive query heads. Vaswani et al. 2017, Ainslie et al. 2023.
 *
 * The composed reference folds the queries of a group into rows, so keys and values are never repeated.
 *
 * @param query `[B, H, T, D]` float32
 * @param key `[B, K, S, D]` float32
 * @param value `[B, K, S, D]` float32
 * @returns `[B, H, T, D]`
 * @throws TfjsLoraError `SHAPE_MISMATCH`
 */
export function attention(
  query: tf.Tensor4D,
  key: tf.Tensor4D,
  value: tf.Tensor4D,
  {bias: givenBias, causal = false, segments, dropout = 0, seed, ...scoring}: AttentionOptions = {},
): tf.Tensor4D {
  const [batch, heads, length, dim] = query.shape;
  const [, groups, sourceLength] = key.shape;
  assertShape('attention query', query, [-1, -1, -1, -1]);
  assertShape('attention key', key, [batch, -1, -1, dim]);
  assertShape('attention value', value, [batch, groups, sourceLength, dim]);
  if (heads % groups !== 0) {
    throw new TfjsLoraError(
      'SHAPE_MISMATCH',
      `attention key: expected a number of heads that divides the query's ${heads}, got ${groups}`,
    );
  }
  const {scale, window, softCap} = scoreSettings(dim, scoring);
  if (segments) assertShape('attention segments', segments, [batch, sourceLength]);
  const composed = () => {
    const bias =
      givenBias ?? (causal ? causalBias(length, sourceLength, segments, window || undefined) : undefined);
    const perGroup = heads / groups;
    const q = tf.mul(query, scale).reshape([batch * groups, perGroup * length, dim]); // [B·K, H/K·T, D]
    const k = key.reshape([batch * groups, sourceLength, dim]); // [B·K, S, D]
    const v = value.reshape([batch * groups, sourceLength, dim]);
    let scores: tf.Tensor = tf.matMul(q, k, false, true).reshape([batch, heads, length, sourceLength]);
    if (softCap) scores = capped(scores, softCap);
    if (bias) scores = tf.add(scores, bias); // [B, H, T, S]
    const weights = tf.softmax(scores).reshape([batch * groups, perGroup * length, sourceLength]);
    const kept = dropout > 0 ? tf.dropout(weights, dropout, undefined, seed) : weights;
    return tf.matMul(kept, v).reshape([batch, heads, length, dim]) as tf.Tensor4D;
  };
  if (givenBias || dropout > 0 || !fitsKernel(dim)) return tf.tidy(composed);
  const inputs = {query, key, value, ...(segments && {segments})};
  return dispatchWithGradient(attentionOp, inputs, {scale, window, softCap, causal}, composed);
}

/** Returns the options of scores with their defaults, for heads of size `dim`. */
export function scoreSettings(dim: number, {scale, window, softCap}: ScoreOptions = {}): ScoreSettings {
  return {scale: scale ?? 1 / Math.sqrt(dim), window: window ?? 0, softCap: softCap ?? 0};
}
