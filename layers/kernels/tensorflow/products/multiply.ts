import type {Ops} from '../device/runOps.ts';
import {DataType, type Handle, settingsOf, tileElementsOf} from '../device/tensorflowBackend.ts';

/** A frozen weight that is read a few rows at a time. */
export interface RowSource {
  rows: number;
  cols: number;
  /** Type of floats that are multiplied as they are in memory. */
  dtype?: number;
  /** Returns rows `begin` to `end`. */
  read(begin: number, end: number): Handle;
}

/**
 * Computes `x · Wᵀ` or `x · W` with only a tile of W widened at a time. A weight that needs no widening is not divided.
 *
 * @param x `[N, cols]` when `transposeWeight`, else `[N, rows]`; float32
 * @returns float32
 */
export function multiply(
  ops: Ops,
  x: Handle,
  {rows, cols, dtype, read}: RowSource,
  transposeWeight: boolean,
): Handle {
  const {operands, isNative} = settingsOf(ops.backend).products;
  const rounded = (handle: Handle) =>
    ops.cast(ops.cast(handle, DataType[operands]), isNative ? DataType[operands] : DataType.float32);
  // Consecutive products often have the same rows.
  const operand =
    operands === 'float32' ? x : ops.latest('operand', `${x.id} ${operands} ${isNative}`, () => rounded(x));
  const isAsItLies = dtype === DataType[operands] && isNative;
  const tileRows = isAsItLies ? rows : Math.max(1, Math.floor(tileElementsOf(ops.backend) / cols));
  const columns: Handle[] = [];
  let sum: Handle | undefined;
  for (let begin = 0; begin < rows; begin += tileRows) {
    const end = Math.min(begin + tileRows, rows);
    const part = ops.scope(() => {
      const tile = rounded(read(begin, end));
      if (transposeWeight) return ops.cast(ops.matMul(operand, tile, false, true), DataType.float32); // [N, end − begin]
      const slice = tileRows < rows ? ops.slice(operand, [0, begin], [-1, end - begin]) : operand;
      const product = ops.cast(ops.matMul(slice, tile), DataType.float32); // [N, cols]
      return sum ? ops.add(sum, product) : product;
    });
    if (transposeWeight) columns.push(part);
    else sum = ops.replace(sum, part);
  }
  return sum ?? ops.concat(columns, 1);
}
