import {decodeAttentionOp} from '../../../ops/decodeAttention.ts';
import {opsKernel} from '../device/opsKernel.ts';
import type {Ops} from '../device/runOps.ts';
import {DataType, type Handle} from '../device/tensorflowBackend.ts';
import {rotated} from '../elementwise/rotaryEmbedding.ts';
import {capped, HIDDEN, isFused, scoreAttributes} from './attention.ts';

/**
 * `DecodeAttention` (layers/ops/decodeAttention.ts). The new position is written into the caches' own memory. Attention
 * reads the whole caches and hides the room after the position, which is cheaper than copying the part that counts.
 */
export const decodeAttention = opsKernel(decodeAttentionOp, (ops, handles, {past, ...scoring}) => {
  const {scale, window, softCap} = scoring;
  const [batch, groups, capacity, dim] = handles.keys.shape;
  const heads = handles.query.shape[1] / dim;
  const [sequences, perGroup] = [batch * groups, heads / groups];
  if (isFused(ops, {dim})) {
    const {query, key, value, cos, sin, keys, values, segments} = handles;
    const at = ops.latest('DecodeAttention past', `${past}`, () => ops.constant([], Int32Array.of(past)));
    const tensors = [query, key, value, cos, sin, keys, values, at];
    return ops.fused('DecodeAttention', tensors, scoreAttributes(ops, scoring), 3, [segments]);
  }
  const both = ops.reshape(ops.concat([handles.query, handles.key], 1), [batch, heads + groups, 1, dim]);
  const turned = rotated(ops, both, handles.cos, handles.sin);
  const places = Int32Array.from({length: sequences}, (_, i) => i * capacity + past);
  const rows = ops.latest('DecodeAttention places', `${places}`, () => ops.constant([sequences], places));
  const put = (cache: Handle, added: Handle) => {
    const flat = ops.reshape(cache, [sequences * capacity, dim]); // the same memory
    return ops.one('InplaceUpdate', [flat, rows, ops.reshape(added, [sequences, dim])]);
  };
  const nextKeys = put(handles.keys, ops.slice(turned, [0, heads, 0, 0], [-1, groups, -1, -1]));
  const nextValues = put(handles.values, handles.value);
  const seen = (cache: Handle) => ops.reshape(cache, [sequences, capacity, dim]);
  const query = ops.mul(ops.slice(turned, [0, 0, 0, 0], [-1, heads, -1, -1]), ops.scalar(scale));
  const scores = ops.batchMatMul(ops.reshape(query, [sequences, perGroup, dim]), seen(nextKeys), false, true); // [B·K, G, capacity]
  const key = `${handles.segments?.id} ${past} ${capacity}`;
  const name = `DecodeAttention bias ${window}`; // layers with and without a window take turns
  const bias = ops.latest(name, key, () => biasOf(ops, handles.segments, past, capacity, window)); // [B or 1, 1, capacity]
  const bounded = softCap > 0 ? capped(ops, scores, softCap) : scores;
  const shown = ops.add(ops.reshape(bounded, [batch, heads, capacity]), bias);
  const weights = ops.reshape(ops.one('Softmax', [shown]), [sequences, perGroup, capacity]);
  const attended = ops.batchMatMul(weights, seen(nextValues)); // [B·K, G, D]
  return [
    ops.reshape(attended, [batch, heads * dim]),
    ops.reshape(nextKeys, handles.keys.shape),
    ops.reshape(nextValues, handles.values.shape),
  ];
});

/** Returns 0 for the positions up to `past` that the last one may look at, {@link HIDDEN} for the rest. */
function biasOf(
  ops: Ops,
  segments: Handle | undefined,
  past: number,
  capacity: number,
  window: number,
): Handle {
  const places = new Float32Array(capacity).fill(HIDDEN, past + 1);
  if (window > 0) places.fill(HIDDEN, 0, Math.max(0, past + 1 - window));
  const inReach = () => ops.constant([1, 1, capacity], places);
  if (!segments) return inReach();
  const seen = ops.slice(segments, [0, 0], [-1, past + 1]); // later positions may follow
  const own = ops.slice(segments, [0, past], [-1, 1]); // [B, 1]
  const all = ops.padEnd(seen, [0, capacity - past - 1]); // [B, capacity]
  const isHidden = ops.one('LogicalOr', [
    ops.one('NotEqual', [all, own]),
    ops.one('Equal', [all, ops.integer(0)]),
  ]);
  const bias = ops.mul(ops.cast(isHidden, DataType.float32), ops.scalar(HIDDEN));
  const ofSegments = ops.reshape(bias, [segments.shape[0], 1, capacity]);
  return window > 0 ? ops.add(ofSegments, inReach()) : ofSegments;
}
