import {loraMatMulOp} from '../../../ops/loraMatMul.ts';
import type {StoredFormat} from '../../../ops/storedMatrix.ts';
import {weightKernel} from '../device/opsKernel.ts';
import type {Ops} from '../device/runOps.ts';
import {
  DataType,
  type Handle,
  type OpAttribute,
  settingsOf,
  tileElementsOf,
} from '../device/tensorflowBackend.ts';
import {isKeptSize, keptWeight} from '../weights/keptWeights.ts';
import {multiply} from './multiply.ts';
import {weightRows} from './weightRows.ts';

type LoRAFormat = StoredFormat & {scaling: number};

/**
 * `LoRAMatMul` (layers/ops/loraMatMul.ts). Second output, unless the weight is merged: `x · Aᵀ`, `[N, rank]`, for
 * backward.
 */
export const loraMatMul = weightKernel(loraMatMulOp, (ops, {x, a, b, ...tensors}, attrs) => {
  const [count] = x.shape;
  const empty = () => ops.empty([count, attrs.rows]);
  if (attrs.isUnread && isFused(ops, attrs)) return [empty()];
  if (isMerged(ops, count, attrs)) {
    if (attrs.isUnread) return [empty()];
    return [ops.matMul(x, mergedWeight(ops, {a, b, tensors}, attrs), false, true)];
  }
  const low = ops.matMul(x, a, false, true);
  if (attrs.isUnread) return [empty(), low];
  const base = multiply(ops, x, weightRows(ops, tensors, attrs), true);
  const path = ops.matMul(low, scaledB(ops, {b, tensors}, attrs), false, true);
  return [ops.add(base, path), low];
});

/** Gradients of `x`, `a` and `b`. */
export const loraMatMulGrad = weightKernel(
  loraMatMulOp.gradient,
  (ops, {dy, x, a, b, extra0, ...tensors}, attrs) => {
    const product = () => multiply(ops, dy, weightRows(ops, tensors, attrs), false);
    const merged = isMerged(ops, x.shape[0], attrs) ? mergedWeight(ops, {a, b, tensors}, attrs) : undefined;
    if (isFused(ops, attrs)) {
      const [da, db, low] = ops.fused('LowRankGrad', [dy, x, a, b], [scalingOf(ops, attrs.scaling)], 3);
      return [merged ? ops.matMul(dy, merged) : addLowRank(ops, product(), low, a, 1), da, db];
    }
    const low = extra0 ?? ops.matMul(x, a, false, true); // if forward kept it
    const scaling = ops.scalar(attrs.scaling);
    const lowGradient = merged
      ? ops.mul(ops.matMul(dy, b), scaling)
      : ops.matMul(dy, scaledB(ops, {b, tensors}, attrs)); // [N, rank]
    const dx = merged ? ops.matMul(dy, merged) : ops.add(product(), ops.matMul(lowGradient, a));
    const db = ops.mul(ops.matMul(dy, low, true), scaling);
    return [dx, ops.matMul(lowGradient, x, true), db];
  },
);

/** Whether a fused op runs it: rows must be whole vectors. */
function isFused(ops: Ops, {rows, cols}: LoRAFormat): boolean {
  return ops.areFused && rows % 8 === 0 && cols % 8 === 0;
}

/** Computes `base + scaling · left · right`. */
function addLowRank(ops: Ops, base: Handle, left: Handle, right: Handle, scaling: number): Handle {
  return ops.fused('AddLowRank', [base, left, right], [scalingOf(ops, scaling)], 1)[0];
}

function scalingOf(ops: Ops, scaling: number): OpAttribute {
  return ops.floatAttribute('scaling', scaling);
}

/**
 * Returns `scaling · B`, kept until the adapter changes, for a weight that is not merged: a merged one is kept in the
 * same place.
 */
function scaledB(
  ops: Ops,
  {b, tensors}: {b: Handle; tensors: Record<string, Handle>},
  {scaling}: LoRAFormat,
): Handle {
  const [{id}] = Object.values(tensors);
  return keptWeight(ops, id, `scaled ${b.id} ${scaling}`, () => ops.mul(b, ops.scalar(scaling)));
}

/**
 * Whether one product with {@link mergedWeight} computes everything because that costs less: for a small weight, which
 * is kept, and for many rows, for which a pass over the weight costs less than the passes over the outputs that it
 * saves. Rounded operands would lose the low-rank matrix.
 *
 * @param count number of rows that are multiplied
 */
function isMerged({backend}: Ops, count: number, {rows, cols}: LoRAFormat): boolean {
  if (settingsOf(backend).products.operands !== 'float32') return false;
  const isLess = rows * cols <= tileElementsOf(backend) && 2 * rows * cols <= count * (rows + cols);
  return isKeptSize(rows, cols) || isLess;
}

/** Returns the weight with the low-rank matrix added, `W + scaling · B · A`. */
function mergedWeight(
  ops: Ops,
  {a, b, tensors}: {a: Handle; b: Handle; tensors: Record<string, Handle>},
  attrs: LoRAFormat,
): Handle {
  const {rows, cols, scaling} = attrs;
  const make = () => {
    const weight = ops.cast(weightRows(ops, tensors, attrs).read(0, rows), DataType.float32);
    if (isFused(ops, attrs)) return addLowRank(ops, weight, b, a, scaling);
    return ops.add(weight, ops.matMul(ops.mul(b, ops.scalar(scaling)), a));
  };
  if (!isKeptSize(rows, cols)) return make();
  const [{id}] = Object.values(tensors);
  return keptWeight(ops, id, `${a.id} ${b.id} ${scaling}`, make);
}
