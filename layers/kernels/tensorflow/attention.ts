import type * as tf from '@tensorflow/tfjs';
import {type Ops, runOps} from './runOps.ts';
import {DataType, type Handle, type OpAttribute, type TensorFlowBackend} from './tensorflowBackend.ts';

/** How many scores exist at once (16 MiB of float32): what several passes over them find in the cache. */
const SCORES_AT_ONCE = 1 << 22;
/** Of so few (8 MiB) the softmax is kept for backward: a third of its work. */
const KEPT_SCORES = 1 << 21;

/** Added to the score of a key that is hidden: finite, so that a query that sees nothing gives a number. */
export const HIDDEN = -1e9;

interface AttentionArgs {
  inputs: Record<'query' | 'key' | 'value', tf.TensorInfo> & {
    segments?: tf.TensorInfo;
    dy?: tf.TensorInfo;
    y?: tf.TensorInfo;
    /** The softmax, where forward kept it. */
    extra0?: tf.TensorInfo;
  };
  attrs: {scale: number; causal: boolean};
  backend: unknown;
}

/** Sizes of an attention: B sequences, K key-value heads of D, each for G query heads; T queries, the last of S positions. */
interface Sizes {
  batch: number;
  groups: number;
  perGroup: number;
  length: number;
  sourceLength: number;
  dim: number;
}

/** Heads `from` to `to` of the B · K, and queries `begin` to `end`, which see at most the keys before `visible`. */
interface Chunk {
  from: number;
  to: number;
  begin: number;
  end: number;
  visible: number;
}

/**
 * `Attention` (layers/ops/attention.ts) in chunks of heads and queries, so that never more than so many scores exist; of a
 * causal one, keys after the last query of a chunk are left out. Second output, for few scores: their softmax, `[n, G·T, S]`.
 */
export const attention = {
  kernelName: 'Attention',
  backendName: 'tensorflow',
  kernelFunc: (args: unknown) => {
    const {inputs, attrs, backend} = args as AttentionArgs;
    const sizes = sizesOf(inputs);
    return runOps(backend as TensorFlowBackend, inputs as Record<string, tf.TensorInfo>, (ops, handles) => {
      if (isFused(ops, sizes)) {
        const tensors = [handles.query, handles.key, handles.value];
        return ops.fused('Attention', tensors, attributesOf(ops, attrs), 2, [handles.segments]);
      }
      const {query, key, value} = folded(ops, handles, sizes);
      if (isKept(sizes)) {
        const [[chunk]] = chunksOf(sizes, attrs.causal);
        const weights = weightsOf(ops, query, key, handles.segments, chunk, sizes, attrs);
        return [ops.reshape(ops.batchMatMul(weights, value), inputs.query.shape), weights];
      }
      const byHead = chunksOf(sizes, attrs.causal).map((chunks) => {
        const byQuery = chunks.map((chunk) =>
          ops.scope(() => {
            const weights = weightsOf(ops, query, key, handles.segments, chunk, sizes, attrs);
            const y = ops.batchMatMul(weights, keysOf(ops, value, chunk)); // [n, G·c, D]
            return unfolded(ops, y, chunk, sizes);
          }),
        );
        return ops.concat(byQuery, 2); // [n, G, T, D]
      });
      return [ops.reshape(ops.concat(byHead, 0), inputs.query.shape)];
    });
  },
} as const;

/** Gradients of query, key and value; the weights of each chunk are made again, unless they were kept. */
export const attentionGrad = {
  kernelName: 'AttentionGrad',
  backendName: 'tensorflow',
  kernelFunc: (args: unknown) => {
    const {inputs, attrs, backend} = args as AttentionArgs;
    const sizes = sizesOf(inputs);
    return runOps(backend as TensorFlowBackend, inputs as Record<string, tf.TensorInfo>, (ops, handles) => {
      if (isFused(ops, sizes)) {
        const {dy, query, key, value, y, extra0: sums} = handles;
        const tensors = [dy, query, key, value, y, sums];
        return ops.fused('AttentionGrad', tensors, attributesOf(ops, attrs), 3, [handles.segments]);
      }
      const {query, key, value, dy, y} = folded(ops, handles, sizes);
      const queryParts: Handle[] = [];
      const keyParts: Handle[] = [];
      const valueParts: Handle[] = [];
      for (const chunks of chunksOf(sizes, attrs.causal)) {
        const byQuery: Handle[] = [];
        let sums: Handle[] = [];
        for (const chunk of chunks) {
          const [dQuery, ...next] = ops.keepOnly(() => {
            const weights =
              handles.extra0 ?? weightsOf(ops, query, key, handles.segments, chunk, sizes, attrs); // [n, G·c, s]
            const g = queriesOf(ops, dy, chunk, sizes); // [n, G·c, D]
            const along = ops.sum(ops.mul(g, queriesOf(ops, y, chunk, sizes)), 2, true); // [n, G·c, 1]
            const dWeights = ops.batchMatMul(g, keysOf(ops, value, chunk), false, true);
            const dScores = ops.mul(weights, ops.sub(dWeights, along)); // [n, G·c, s]
            const scale = ops.scalar(attrs.scale);
            const dq = ops.mul(ops.batchMatMul(dScores, keysOf(ops, key, chunk)), scale);
            const dk = ops.mul(ops.batchMatMul(dScores, queriesOf(ops, query, chunk, sizes), true), scale); // [n, s, D]
            const dv = ops.batchMatMul(weights, g, true);
            const hidden = sizes.sourceLength - chunk.visible;
            const whole = [dk, dv].map((part) => (hidden > 0 ? ops.padEnd(part, [0, hidden, 0]) : part));
            return [
              unfolded(ops, dq, chunk, sizes),
              ...(sums.length > 0 ? whole.map((part, i) => ops.add(sums[i], part)) : whole),
            ];
          });
          byQuery.push(dQuery);
          sums.forEach((sum, i) => void ops.replace(sum, next[i]));
          sums = next;
        }
        queryParts.push(ops.concat(byQuery, 2));
        keyParts.push(sums[0]);
        valueParts.push(sums[1]);
      }
      return [
        ops.reshape(ops.concat(queryParts, 0), inputs.query.shape),
        ops.reshape(ops.concat(keyParts, 0), inputs.key.shape),
        ops.reshape(ops.concat(valueParts, 0), inputs.value.shape),
      ];
    });
  },
} as const;

/** Its rows are whole vectors. */
export const isFused = (ops: Ops, {dim}: {dim: number}): boolean => ops.areFused && dim % 8 === 0;

function attributesOf(ops: Ops, {scale, causal}: AttentionArgs['attrs']): OpAttribute[] {
  return [ops.floatAttribute('scale', scale), ops.boolAttribute('causal', causal)];
}

function sizesOf({query, key}: AttentionArgs['inputs']): Sizes {
  const [batch, heads, length, dim] = query.shape;
  const [, groups, sourceLength] = key.shape;
  return {batch, groups, perGroup: heads / groups, length, sourceLength, dim};
}

function isKept({batch, groups, perGroup, length, sourceLength}: Sizes): boolean {
  return length > 1 && batch * groups * perGroup * length * sourceLength <= KEPT_SCORES;
}

/** Chunks by head, and of each by query. */
function chunksOf({batch, groups, perGroup, length, sourceLength}: Sizes, causal: boolean): Chunk[][] {
  const perHead = perGroup * length * sourceLength;
  const heads = Math.max(1, Math.min(batch * groups, Math.floor(SCORES_AT_ONCE / perHead)));
  const queries =
    heads > 1
      ? length
      : Math.max(1, Math.min(length, Math.floor(SCORES_AT_ONCE / (perGroup * sourceLength))));
  const past = sourceLength - length;
  return spans(batch * groups, heads).map(([from, to]) =>
    spans(length, queries).map(([begin, end]) => ({
      from,
      to,
      begin,
      end,
      visible: causal ? past + end : sourceLength,
    })),
  );
}

/** `[0, size)` in parts of `step`. */
function spans(size: number, step: number): [number, number][] {
  return Array.from({length: Math.ceil(size / step)}, (_, i) => [i * step, Math.min((i + 1) * step, size)]);
}

/** Heads by group: queries `[B·K, G, T, D]`, keys and values `[B·K, S, D]`. */
function folded(ops: Ops, handles: Record<string, Handle>, sizes: Sizes): Record<string, Handle> {
  const {batch, groups, perGroup, length, sourceLength, dim} = sizes;
  const byGroup = (name: string) => ops.reshape(handles[name], [batch * groups, perGroup, length, dim]);
  const byKey = (name: string) => ops.reshape(handles[name], [batch * groups, sourceLength, dim]);
  return {
    query: byGroup('query'),
    key: byKey('key'),
    value: byKey('value'),
    ...(handles.dy && {dy: byGroup('dy'), y: byGroup('y')}),
  };
}

/** `[n, G·c, D]` of `[B·K, G, T, D]` */
function queriesOf(ops: Ops, x: Handle, {from, to, begin, end}: Chunk, {perGroup, dim}: Sizes): Handle {
  const isWhole = to - from === x.shape[0] && end - begin === x.shape[2];
  const part = isWhole ? x : ops.slice(x, [from, 0, begin, 0], [to - from, -1, end - begin, -1]);
  return ops.reshape(part, [to - from, perGroup * (end - begin), dim]);
}

/** `[n, s, D]` of `[B·K, S, D]` */
function keysOf(ops: Ops, x: Handle, {from, to, visible}: Chunk): Handle {
  const isWhole = to - from === x.shape[0] && visible === x.shape[1];
  return isWhole ? x : ops.slice(x, [from, 0, 0], [to - from, visible, -1]);
}

/** `[n, G·c, D]` → `[n, G, c, D]` */
function unfolded(ops: Ops, x: Handle, {from, to, begin, end}: Chunk, {perGroup, dim}: Sizes): Handle {
  return ops.reshape(x, [to - from, perGroup, end - begin, dim]);
}

/** Softmax of the scores of a chunk, `[n, G·c, s]`. */
function weightsOf(
  ops: Ops,
  query: Handle,
  key: Handle,
  segments: Handle | undefined,
  chunk: Chunk,
  sizes: Sizes,
  {scale, causal}: AttentionArgs['attrs'],
): Handle {
  return ops.scope(() => {
    const {from, to, begin, end, visible} = chunk;
    const {perGroup} = sizes;
    const count = end - begin;
    const scaled = ops.mul(queriesOf(ops, query, chunk, sizes), ops.scalar(scale));
    const scores = ops.batchMatMul(scaled, keysOf(ops, key, chunk), false, true); // [n, G·c, s]
    if (!causal || (count === 1 && !segments)) return ops.one('Softmax', [scores]);
    const inputs = [segments?.id, ...Object.values(chunk), ...Object.values(sizes)].join();
    const bias = ops.latest('Attention bias', inputs, () => biasOf(ops, segments, chunk, sizes)); // [1 or n, 1, c, s]
    const shown = ops.add(ops.reshape(scores, [to - from, perGroup, count, visible]), bias);
    return ops.one('Softmax', [ops.reshape(shown, [to - from, perGroup * count, visible])]);
  });
}

/** 0 where a query may look, {@link HIDDEN} elsewhere. */
function biasOf(
  ops: Ops,
  segments: Handle | undefined,
  {from, to, begin, end, visible}: Chunk,
  {groups, length, sourceLength}: Sizes,
): Handle {
  const [past, count] = [sourceLength - length, end - begin];
  const isAfter = new Uint8Array(count * visible);
  for (let t = 0; t < count; t++) isAfter.fill(1, t * visible + past + begin + t + 1, (t + 1) * visible);
  let isHidden = ops.constant([1, 1, count, visible], isAfter, DataType.bool);
  if (segments) {
    const heads = ops.integers(Array.from({length: to - from}, (_, i) => Math.floor((from + i) / groups)));
    const ofHead = ops.gather(segments, heads); // [n, S]
    const keys = ops.reshape(ops.slice(ofHead, [0, 0], [-1, visible]), [to - from, 1, 1, visible]);
    const queries = ops.reshape(ops.slice(ofHead, [0, past + begin], [-1, count]), [to - from, 1, count, 1]);
    const isOther = ops.one('LogicalOr', [
      ops.one('NotEqual', [keys, queries]),
      ops.one('Equal', [keys, ops.integer(0)]),
    ]);
    isHidden = ops.one('LogicalOr', [isHidden, isOther]); // [n, 1, c, s]
  }
  return ops.mul(ops.cast(isHidden, DataType.float32), ops.scalar(HIDDEN));
}
