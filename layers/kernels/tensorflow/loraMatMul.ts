import type * as tf from '@tensorflow/tfjs';
import {isKeptSize, keptWeight} from './keptWeights.ts';
import {multiply, TILE_ELEMENTS} from './multiply.ts';
import {type Ops, runOps} from './runOps.ts';
import {
  DataType,
  type Handle,
  type OpAttribute,
  productsOf,
  type TensorFlowBackend,
} from './tensorflowBackend.ts';
import {type WeightAttributes, type WeightInputs, weightRows} from './weightRows.ts';

interface LoRAMatMulArgs {
  inputs: WeightInputs & Record<'x' | 'a' | 'b' | 'dy', tf.TensorInfo>;
  attrs: WeightAttributes & {scaling: number; isUnread: boolean};
  backend: unknown;
}

/** `LoRAMatMul` (layers/ops/loraMatMul.ts). */
export const loraMatMul = {
  kernelName: 'LoRAMatMul',
  backendName: 'tensorflow',
  kernelFunc: (args: unknown) => {
    const {inputs, attrs, backend: anyBackend} = args as LoRAMatMulArgs;
    const backend = anyBackend as TensorFlowBackend;
    return runOps(backend, inputs, (ops, {x, a, b, ...tensors}) => {
      const [count] = x.shape;
      if (attrs.isUnread) return [ops.empty([count, attrs.rows])];
      const merged = mergedWeight(ops, backend, count, {a, b, tensors}, attrs);
      if (merged) return [ops.matMul(x, merged, false, true)];
      const base = multiply(ops, x, weightRows(ops, backend, tensors, attrs), true, productsOf(backend));
      const low = ops.mul(ops.matMul(x, a, false, true), ops.scalar(attrs.scaling)); // [N, rank]
      return [ops.add(base, ops.matMul(low, b, false, true))];
    })[0];
  },
} as const;

/** Gradients of `x`, `a` and `b`; `x · Aᵀ` is made again. */
export const loraMatMulGrad = {
  kernelName: 'LoRAMatMulGrad',
  backendName: 'tensorflow',
  kernelFunc: (args: unknown) => {
    const {inputs, attrs, backend: anyBackend} = args as LoRAMatMulArgs;
    const backend = anyBackend as TensorFlowBackend;
    return runOps(backend, inputs, (ops, {dy, x, a, b, ...tensors}) => {
      const merged = mergedWeight(ops, backend, x.shape[0], {a, b, tensors}, attrs);
      const product = () =>
        multiply(ops, dy, weightRows(ops, backend, tensors, attrs), false, productsOf(backend));
      if (isFused(ops, attrs)) {
        const [da, db, low] = ops.fused('LowRankGrad', [dy, x, a, b], [scalingOf(ops, attrs.scaling)], 3);
        return [merged ? ops.matMul(dy, merged) : addLowRank(ops, product(), low, a, 1), da, db];
      }
      const scaling = ops.scalar(attrs.scaling);
      const lowGradient = ops.mul(ops.matMul(dy, b), scaling); // [N, rank]
      const dx = merged ? ops.matMul(dy, merged) : ops.add(product(), ops.matMul(lowGradient, a));
      const da = ops.matMul(lowGradient, x, true);
      const low = ops.mul(ops.matMul(x, a, false, true), scaling);
      return [dx, da, ops.matMul(dy, low, true)];
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

/**
 * The weight with the low-rank matrix added, `W + scaling · B · A`, so that one product gives all; undefined where that costs
 * more. It does not for a small weight, which is kept, and for many rows: a pass over the weight is less than those over what
 * each row gives then. Operands that are rounded would lose the low-rank matrix.
 *
 * @param count of rows multiplied with it
 */
function mergedWeight(
  ops: Ops,
  backend: TensorFlowBackend,
  count: number,
  {a, b, tensors}: {a: Handle; b: Handle; tensors: Record<string, Handle>},
  attrs: LoRAMatMulArgs['attrs'],
): Handle | undefined {
  const {rows, cols, scaling} = attrs;
  const isKept = isKeptSize(rows, cols);
  const isLess = rows * cols <= TILE_ELEMENTS && 2 * rows * cols <= count * (rows + cols);
  if (productsOf(backend).operands !== 'float32' || !(isKept || isLess)) return undefined;
  const make = () => {
    const weight = ops.cast(weightRows(ops, backend, tensors, attrs).read(0, rows), DataType.float32);
    if (isFused(ops, attrs)) return addLowRank(ops, weight, b, a, scaling);
    return ops.add(weight, ops.matMul(ops.mul(b, ops.scalar(scaling)), a));
  };
  if (!isKept) return make();
  const [{id}] = Object.values(tensors);
  return keptWeight(ops, backend, id, `${a.id} ${b.id} ${scaling}`, make);
}
