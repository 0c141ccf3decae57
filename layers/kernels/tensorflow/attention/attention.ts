import {attentionOp, type ScoreSettings} from '../../../ops/attention.ts';
import {opsKernel} from '../device/opsKernel.ts';
import type {Ops} from '../device/runOps.ts';
import {DataType, type Handle, type OpAttribute} from '../device/tensorflowBackend.ts';

/**
 * How many scores exist at the same time (16 MiB of float32), so that several passes over them find them in the cache.
 */
const SCORES_AT_ONCE = 1 << 22;
/** The same on a card (256 MiB): enough work for an op to outlast the start of the next. */
const SCORES_AT_ONCE_ON_CARD = 1 << 26;
/** The largest bias of all chunks that is kept on a card, in elements (64 MiB). */
const KEPT_BIAS = 1 << 24;
/** With at most this many scores (8 MiB), their softmax is kept for backward, which saves a third of its work. */
const KEPT_SCORES = 1 << 21;

/** Added to the score of a hidden key: finite, so that a query that sees nothing gives a number. */
export const HIDDEN = -1e9;

type Attributes = ScoreSettings & {causal: boolean};

/**
 * Sizes of an attention: B sequences, K key-value heads of size D, each for G query heads; T queries, the last of S
 * positions.
 */
interface Sizes {
  batch: number;
  groups: number;
  perGroup: number;
  length: number;
  sourceLength: number;
  dim: number;
  /** Number of positions that a query sees at most; 0: all. */
  window: number;
  isOnCard: boolean;
}

/** Heads `from` to `to` of the B · K, and queries `begin` to `end`, which see only keys before `visible`. */
interface Chunk {
  from: number;
  to: number;
  begin: number;
  end: number;
  visible: number;
}

/**
 * `Attention` (layers/ops/attention.ts) in chunks of heads and queries, which bounds the number of scores that exist at
 * the same time. In a causal one, keys after the last query of a chunk are skipped. Second output, if there are few
 * scores: their softmax, `[n, G·T, S]`.
 */
export const attention = opsKernel(attentionOp, (ops, handles, attrs) => {
  const sizes = sizesOf(ops, handles, attrs);
  if (isFused(ops, sizes)) {
    const tensors = [handles.query, handles.key, handles.value];
    return ops.fused('Attention', tensors, attributesOf(ops, attrs), 2, [handles.segments]);
  }
  const {query, key, value} = folded(ops, handles, sizes);
  if (isKept(sizes)) {
    const [[chunk]] = chunksOf(sizes, attrs.causal);
    const weights = weightsOf(ops, query, key, handles.segments, chunk, sizes, attrs);
    return [ops.reshape(ops.batchMatMul(weights, value), handles.query.shape), weights];
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
  return [ops.reshape(ops.concat(byHead, 0), handles.query.shape)];
});

/** Gradients of query, key and value; the weights of each chunk are computed again, unless they were kept. */
export const attentionGrad = opsKernel(attentionOp.gradient, (ops, handles, attrs) => {
  const sizes = sizesOf(ops, handles, attrs);
  if (isFused(ops, sizes)) {
    const {dy, query, key, value, y, extra0: sums} = handles;
    const tensors = [dy, query, key, value, y, sums];
    return ops.fused('AttentionGrad', tensors, attributesOf(ops, attrs), 3, [handles.segments]);
  }
  const {query, key, value, dy, y} = folded(ops, handles, sizes);
  const {softCap} = attrs;
  const queryParts: Handle[] = [];
  const keyParts: Handle[] = [];
  const valueParts: Handle[] = [];
  for (const chunks of chunksOf(sizes, attrs.causal)) {
    const byQuery: Handle[] = [];
    let sums: Handle[] = [];
    for (const chunk of chunks) {
      const [dQuery, ...next] = ops.keepOnly(() => {
        const weights = handles.extra0 ?? weightsOf(ops, query, key, handles.segments, chunk, sizes, attrs); // [n, G·c, s]
        const g = queriesOf(ops, dy, chunk, sizes); // [n, G·c, D]
        const along = ops.sum(ops.mul(g, queriesOf(ops, y, chunk, sizes)), 2, true); // [n, G·c, 1]
        const dWeights = ops.batchMatMul(g, keysOf(ops, value, chunk), false, true);
        const bounded = ops.mul(weights, ops.sub(dWeights, along)); // [n, G·c, s]
        const dScores =
          softCap > 0 ? ops.mul(bounded, slopeOfCap(ops, query, key, chunk, sizes, attrs)) : bounded;
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
    ops.reshape(ops.concat(queryParts, 0), handles.query.shape),
    ops.reshape(ops.concat(keyParts, 0), handles.key.shape),
    ops.reshape(ops.concat(valueParts, 0), handles.value.shape),
  ];
});

/** Whether a fused op runs it: rows must be whole vectors. */
export const isFused = (ops: Ops, {dim}: {dim: number}): boolean => ops.areFused && dim % 8 === 0;

function attributesOf(ops: Ops, attrs: Attributes): OpAttribute[] {
  return [...scoreAttributes(ops, attrs), ops.boolAttribute('causal', attrs.causal)];
}

/** Returns the settings of scores as a fused op takes them; those that are off are its defaults. */
export function scoreAttributes(ops: Ops, {scale, window, softCap}: ScoreSettings): OpAttribute[] {
  return [
    ops.floatAttribute('scale', scale),
    ...(window > 0 ? [ops.intAttribute('window', window)] : []),
    ...(softCap > 0 ? [ops.floatAttribute('soft_cap', softCap)] : []),
  ];
}

function sizesOf(
  {isOnCard}: Ops,
  {query, key}: Record<'query' | 'key', Handle>,
  {window}: Attributes,
): Sizes {
  const [batch, heads, length, dim] = query.shape;
  const [, groups, sourceLength] = key.shape;
  const perGroup = heads / groups;
  return {batch, groups, perGroup, length, sourceLength, dim, window, isOnCard};
}

function isKept({batch, groups, perGroup, length, sourceLength}: Sizes): boolean {
  return length > 1 && batch * groups * perGroup * length * sourceLength <= KEPT_SCORES;
}

/** Returns the chunks by head, each divided by query. */
function chunksOf(
  {batch, groups, perGroup, length, sourceLength, isOnCard}: Sizes,
  causal: boolean,
): Chunk[][] {
  const perHead = perGroup * length * sourceLength;
  // All heads of a few queries keep a card busy, and few queries skip more keys.
  const heads = isOnCard
    ? batch * groups
    : Math.max(1, Math.min(batch * groups, Math.floor(SCORES_AT_ONCE / perHead)));
  const perQuery = heads * perGroup * sourceLength;
  const queries = isOnCard
    ? Math.max(1, Math.min(length, Math.floor(SCORES_AT_ONCE_ON_CARD / perQuery)))
    : heads > 1
      ? length
      : Math.max(1, Math.min(length, Math.floor(SCORES_AT_ONCE / perQuery)));
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

/** Divides `[0, size)` into parts of `step`. */
function spans(size: number, step: number): [number, number][] {
  return Array.from({length: Math.ceil(size / step)}, (_, i) => [i * step, Math.min((i + 1) * step, size)]);
}

/** Groups heads: queries `[B·K, G, T, D]`, keys and values `[B·K, S, D]`. */
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

/** Takes a chunk's `[n, G·c, D]` from `[B·K, G, T, D]`. */
function queriesOf(ops: Ops, x: Handle, {from, to, begin, end}: Chunk, {perGroup, dim}: Sizes): Handle {
  const isWhole = to - from === x.shape[0] && end - begin === x.shape[2];
  const part = isWhole ? x : ops.slice(x, [from, 0, begin, 0], [to - from, -1, end - begin, -1]);
  return ops.reshape(part, [to - from, perGroup * (end - begin), dim]);
}

/** Takes a chunk's `[n, s, D]` from `[B·K, S, D]`. */
function keysOf(ops: Ops, x: Handle, {from, to, visible}: Chunk): Handle {
  const isWhole = to - from === x.shape[0] && visible === x.shape[1];
  return isWhole ? x : ops.slice(x, [from, 0, 0], [to - from, visible, -1]);
}

/** Reshapes `[n, G·c, D]` to `[n, G, c, D]`. */
function unfolded(ops: Ops, x: Handle, {from, to, begin, end}: Chunk, {perGroup, dim}: Sizes): Handle {
  return ops.reshape(x, [to - from, perGroup, end - begin, dim]);
}

/** Returns the softmax of a chunk's scores, `[n, G·c, s]`. */
function weightsOf(
  ops: Ops,
  query: Handle,
  key: Handle,
  segments: Handle | undefined,
  chunk: Chunk,
  sizes: Sizes,
  {scale, causal, window, softCap}: Attributes,
): Handle {
  return ops.scope(() => {
    const {from, to, begin, end, visible} = chunk;
    const {batch, groups, perGroup} = sizes;
    const count = end - begin;
    const scaled = ops.mul(queriesOf(ops, query, chunk, sizes), ops.scalar(scale));
    const plain = ops.batchMatMul(scaled, keysOf(ops, key, chunk), false, true); // [n, G·c, s]
    const scores = softCap > 0 ? capped(ops, plain, softCap) : plain;
    const seesAll = count === 1 && !segments && (window === 0 || window >= visible);
    if (!causal || seesAll) return ops.one('Softmax', [scores]);
    const inputs = [segments?.id, ...Object.values(chunk), ...Object.values(sizes)].join();
    const bias = ops.latest(biasName(chunk, sizes), inputs, () => biasOf(ops, segments, chunk, sizes)); // [1, B or n, c, s]
    const heads = isOfAllHeads(chunk, sizes) ? [batch, groups * perGroup] : [to - from, perGroup];
    const shown = ops.add(ops.reshape(scores, [...heads, count, visible]), bias);
    return ops.one('Softmax', [ops.reshape(shown, [to - from, perGroup * count, visible])]);
  });
}

/** Bounds scores: `bound · tanh(x / bound)`. */
export const capped = (ops: Ops, x: Handle, bound: number): Handle =>
  ops.mul(ops.one('Tanh', [ops.mul(x, ops.scalar(1 / bound))]), ops.scalar(bound));

/** Returns how fast a chunk's bounded scores grow with the plain ones, `[n, G·c, s]`. */
function slopeOfCap(
  ops: Ops,
  query: Handle,
  key: Handle,
  chunk: Chunk,
  sizes: Sizes,
  {scale, softCap}: Attributes,
): Handle {
  return ops.scope(() => {
    const scores = ops.batchMatMul(queriesOf(ops, query, chunk, sizes), keysOf(ops, key, chunk), false, true);
    const share = ops.one('Tanh', [ops.mul(scores, ops.scalar(scale / softCap))]);
    return ops.sub(ops.scalar(1), ops.mul(share, share));
  });
}

const isOfAllHeads = ({from, to}: Chunk, {batch, groups}: Sizes): boolean => to - from === batch * groups;

/** Names the bias to keep: on a card all layers share those of all chunks, as long as they are small. */
function biasName({begin}: Chunk, {isOnCard, batch, length, sourceLength, window}: Sizes): string {
  const isEach = isOnCard && batch * length * sourceLength <= KEPT_BIAS;
  return `Attention bias ${window}${isEach ? ` ${begin}` : ''}`; // layers with and without a window take turns
}

/**
 * Returns 0 where a query may look, {@link HIDDEN} elsewhere: `[1, 1, c, s]`; with segments `[B, 1, c, s]`, or
 * `[n, 1, c, s]` for some heads.
 */
function biasOf(ops: Ops, segments: Handle | undefined, chunk: Chunk, sizes: Sizes): Handle {
  const {from, to, begin, end, visible} = chunk;
  const {groups, length, sourceLength, window} = sizes;
  const [past, count] = [sourceLength - length, end - begin];
  const keyPlaces = ops.reshape(ops.positions(0, visible), [1, 1, 1, visible]);
  const queryPlaces = ops.reshape(ops.positions(past + begin, past + end), [1, 1, count, 1]);
  let isHidden = ops.one('Greater', [keyPlaces, queryPlaces]); // [1, 1, c, s]
  if (window > 0) {
    const isBefore = ops.one('LessEqual', [keyPlaces, ops.sub(queryPlaces, ops.scalar(window))]);
    isHidden = ops.one('LogicalOr', [isHidden, isBefore]);
  }
  if (segments) {
    const numbers = ops.cast(segments, DataType.float32); // exact; a card would leave integers to the host
    const heads = () =>
      ops.integers(Array.from({length: to - from}, (_, i) => Math.floor((from + i) / groups)));
    const ofHead = isOfAllHeads(chunk, sizes) ? numbers : ops.gather(numbers, heads()); // [B or n, S]
    const [each] = ofHead.shape;
    const keys = ops.reshape(ops.slice(ofHead, [0, 0], [-1, visible]), [each, 1, 1, visible]);
    const queries = ops.reshape(ops.slice(ofHead, [0, past + begin], [-1, count]), [each, 1, count, 1]);
    const isOther = ops.one('LogicalOr', [
      ops.one('NotEqual', [keys, queries]),
      ops.one('Equal', [keys, ops.scalar(0)]),
    ]);
    isHidden = ops.one('LogicalOr', [isHidden, isOther]);
  }
  return ops.mul(ops.cast(isHidden, DataType.float32), ops.scalar(HIDDEN));
}
