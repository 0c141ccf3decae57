import type * as tf from '@tensorflow/tfjs';
import {keepOnCard} from './keepOnCard.ts';
import {isKeptSize, keptWeight} from './keptWeights.ts';
import {multiply} from './multiply.ts';
import {type Ops, runOps} from './runOps.ts';
import {
  DataType,
  type Handle,
  type OpAttribute,
  productsOf,
  type TensorFlowBackend,
  tileElementsOf,
} from './tensorflowBackend.ts';
import {type WeightAttributes, type WeightInputs, weightRows} from './weightRows.ts';

interface LoRAMatMulArgs {
  /** `extra0`: what forward kept, if it did. */
  inputs: WeightInputs & Record<'x' | 'a' | 'b' | 'dy' | 'extra0', tf.TensorInfo>;
  attrs: WeightAttributes & {scaling: number; isUnread: boolean};
  backend: unknown;
}

/** `LoRAMatMul` (layers/ops/loraMatMul.ts). Second output, where the two are kept apart: `x · Aᵀ`, `[N, rank]`, for backward. */
export const loraMatMul = {
  kernelName: 'LoRAMatMul',
  backendName: 'tensorflow',
  kernelFunc: (args: unknown) => {
    const {inputs, attrs, backend: anyBackend} = args as LoRAMatMulArgs;
    const backend = anyBackend as TensorFlowBackend;
    keepOnCard(backend, inputs);
    return runOps(backend, inputs, (ops, {x, a, b, ...tensors}) => {
      const [count] = x.shape;
      const empty = () => ops.empty([count, attrs.rows]);
      if (attrs.isUnread && isFused(ops, attrs)) return [empty()];
      if (isMerged(backend, count, attrs)) {
        if (attrs.isUnread) return [empty()];
        return [ops.matMul(x, mergedWeight(ops, backend, {a, b, tensors}, attrs), false, true)];
      }
      const low = ops.matMul(x, a, false, true);
      if (attrs.isUnread) return [empty(), low];
      const weight = weightRows(ops, backend, tensors, attrs);
      const base = multiply(ops, x, weight, true, productsOf(backend), tileElementsOf(backend));
      const path = ops.matMul(low, scaledB(ops, backend, {b, tensors}, attrs), false, true);
      return [ops.add(base, path), low];
    });
  },
} as const;

/** Gradients of `x`, `a` and `b`. */
export const loraMatMulGrad = {
  kernelName: 'LoRAMatMulGrad',
  backendName: 'tensorflow',
  kernelFunc: (args: unknown) => {
    const {inputs, attrs, backend: anyBackend} = args as LoRAMatMulArgs;
    const backend = anyBackend as TensorFlowBackend;
    keepOnCard(backend, inputs);
    return runOps(backend, inputs, (ops, {dy, x, a, b, extra0, ...tensors}) => {
      const product = () =>
        multiply(
          ops,
          dy,
          weightRows(ops, backend, tensors, attrs),
          false,
          productsOf(backend),
          tileElementsOf(backend),
        );
      const merged = isMerged(backend, x.shape[0], attrs)
        ? mergedWeight(ops, backend, {a, b, tensors}, attrs)
        : undefined;
      if (isFused(ops, attrs)) {
        const [da, db, low] = ops.fused('LowRankGrad', [dy, x, a, b], [scalingOf(ops, attrs.scaling)], 3);
        return [merged ? ops.matMul(dy, merged) : addLowRank(ops, product(), low, a, 1), da, db];
      }
      const low = extra0 ?? ops.matMul(x, a, false, true);
      const scaling = ops.scalar(attrs.scaling);
      const lowGradient = merged
        ? ops.mul(ops.matMul(dy, b), scaling)
        : ops.matMul(dy, scaledB(ops, backend, {b, tensors}, attrs)); // [N, rank]
      const dx = merged ? ops.matMul(dy, merged) : ops.add(product(), ops.matMul(lowGradient, a));
      const db = ops.mul(ops.matMul(dy, low, true), scaling);
      return [dx, ops.matMul(lowGradient, x, true), db];
    });
  },
} as const;

/** Rows are whole vectors. */
function isFused(ops: Ops, {rows, cols}: LoRAMatMulArgs['attrs']): boolean {
  return ops.areFused && rows % 8 === 0 && cols % 8 === 0;
}

/** `base + scaling · left · right` */
function addLowRank(ops: Ops, base: Handle, left: Handle, right: Handle, scaling: number): Handle {
  return ops.fused('AddLowRank', [base, left, right], [scalingOf(ops, scaling)], 1)[0];
}

function scalingOf(ops: Ops, scaling: number): OpAttribute {
  return ops.floatAttribute('scaling', scaling);
}

/** `scaling · B`, kept until the adapter changes, for a weight that is not merged: that is kept in the same place. */
function scaledB(
  ops: Ops,
  backend: TensorFlowBackend,
  {b, tensors}: {b: Handle; tensors: Record<string, Handle>},
  {scaling}: LoRAMatMulArgs['attrs'],
): Handle {
  const [{id}] = Object.values(tensors);
  return keptWeight(ops, backend, id, `scaled ${b.id} ${scaling}`, () => ops.mul(b, ops.scalar(scaling)));
}

/**
 * Whether one product with {@link mergedWeight} gives all. It does where that costs less: for a small weight, which is kept, and
 * for many rows, since a pass over the weight is less than those over what each row gives then. Operands that are rounded
 * would lose the low-rank matrix.
 *
 * @param count of rows multiplied with it
 */
function isMerged(backend: TensorFlowBackend, count: number, {rows, cols}: LoRAMatMulArgs['attrs']): boolean {
  if (productsOf(backend).operands !== 'float32') return false;
  const isLess = rows * cols <= tileElementsOf(backend) && 2 * rows * cols <= count * (rows + cols);
  return isKeptSize(rows, cols) || isLess;
}

/** The weight with the low-rank matrix added, `W + scaling · B · A`. */
function mergedWeight(
  ops: Ops,
  backend: TensorFlowBackend,
  {a, b, tensors}: {a: Handle; b: Handle; tensors: Record<string, Handle>},
  attrs: LoRAMatMulArgs['attrs'],
): Handle {
  const {rows, cols, scaling} = attrs;
  const make = () => {
    const weight = ops.cast(weightRows(ops, backend, tensors, attrs).read(0, rows), DataType.float32);
    if (isFused(ops, attrs)) return addLowRank(ops, weight, b, a, scaling);
    return ops.add(weight, ops.matMul(ops.mul(b, ops.scalar(scaling)), a));
  };
  if (!isKeptSize(rows, cols)) return make();
  const [{id}] = Object.values(tensors);
  return keptWeight(ops, backend, id, `${a.id} ${b.id} ${scaling}`, make);
}
