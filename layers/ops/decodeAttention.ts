import * as tf from '@tensorflow/tfjs';
import {assertShape} from './assertShape.ts';
import {attention, type ScoreOptions, type ScoreSettings, scoreSettings} from './attention.ts';
import {dispatch} from './dispatch.ts';
import {op, type Tensors} from './op.ts';
import {rotaryEmbedding} from './rotaryEmbedding.ts';

/** Returns the attended values, and the cache with the new position. */
export const decodeAttentionOp = op<
  Tensors<Exclude<keyof DecodeAttentionInputs, 'segments'>> & {segments?: tf.TensorInfo},
  ScoreSettings & {past: number},
  [attended: tf.Tensor2D, keys: tf.Tensor4D, values: tf.Tensor4D]
>('DecodeAttention');

/** The tensors of one new position, before rotary embedding, and the cache it goes into. */
export interface DecodeAttentionInputs {
  /** `[B, H·D]` float32. */
  query: tf.Tensor2D;
  /** `[B, K·D]` float32. */
  key: tf.Tensor2D;
  /** `[B, K·D]` float32. */
  value: tf.Tensor2D;
  /** Cosines and sines of the position, each `[B or 1, 1, 1, D/2]` float32. */
  cos: tf.Tensor4D;
  sin: tf.Tensor4D;
  /** `[B, K, capacity, D]` float32, of which the first `past` positions count. The result replaces it. */
  keys: tf.Tensor4D;
  values: tf.Tensor4D;
  /** `[B, past + 1]` int32 as {@link attention} takes them; may be longer, for later positions. */
  segments?: tf.Tensor2D;
}

/**
 * Runs one step of generation in attention: rotates query and key by their position, writes key and value into the
 * cache at `past`, and attends to all positions up to there. A kernel does this in one pass and overwrites the cache;
 * replayed by `recordReplay`, it takes the next position each time.
 *
 * @param past number of positions in the cache, fewer than its capacity
 * @param scoring options of the scores, as in {@link attention}
 * @returns the attended values, `[B, H·D]`, and the cache with the new position
 * @throws TfjsLoraError `SHAPE_MISMATCH`
 */
export function decodeAttention(
  {query, key, value, cos, sin, keys, values, segments}: DecodeAttentionInputs,
  past: number,
  scoring: ScoreOptions = {},
): [attended: tf.Tensor2D, keys: tf.Tensor4D, values: tf.Tensor4D] {
  const [batch, groups, capacity, dim] = keys.shape;
  assertShape('decodeAttention query', query, [batch, -1]);
  assertShape('decodeAttention key', key, [batch, groups * dim]);
  assertShape('decodeAttention value', value, [batch, groups * dim]);
  assertShape('decodeAttention values', values, keys.shape);
  assertShape('decodeAttention cos', cos, [-1, 1, 1, dim / 2]);
  assertShape('decodeAttention sin', sin, cos.shape);
  if (segments)
    assertShape('decodeAttention segments', segments, [batch, Math.max(past + 1, segments.shape[1])]);
  const inputs = {query, key, value, cos, sin, keys, values, ...(segments && {segments})};
  return dispatch(decodeAttentionOp, inputs, {past, ...scoreSettings(dim, scoring)}, () => {
    const heads = query.shape[1] / dim;
    const turned = (x: tf.Tensor2D, count: number) =>
      rotaryEmbedding(x.reshape([batch, count, 1, dim]), cos, sin);
    const put = (cache: tf.Tensor4D, added: tf.Tensor4D) => {
      const rest = capacity - past - 1;
      return tf.concat(
        [
          cache.slice([0, 0, 0, 0], [-1, -1, past, -1]),
          added,
          cache.slice([0, 0, past + 1, 0], [-1, -1, rest, -1]),
        ],
        2,
      );
    };
    const nextKeys = put(keys, turned(key, groups));
    const nextValues = put(values, value.reshape([batch, groups, 1, dim]));
    const seen = (cache: tf.Tensor4D) => cache.slice([0, 0, 0, 0], [-1, -1, past + 1, -1]);
    const options = {causal: true, segments: segments?.slice([0, 0], [-1, past + 1]), ...scoring};
    const attended = attention(turned(query, heads), seen(nextKeys), seen(nextValues), options);
    return [attended.reshape([batch, heads * dim]), nextKeys, nextValues] as [
      tf.Tensor2D,
      tf.Tensor4D,
      tf.Tensor4D,
    ];
  });
}
