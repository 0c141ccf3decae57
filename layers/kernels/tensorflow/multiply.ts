import type {Ops} from './runOps.ts';
import {DataType, type Handle, type Products} from './tensorflowBackend.ts';

/** How many elements of a weight are widened at once (64 MiB of float32). */
export const TILE_ELEMENTS = 1 << 24;

/** A frozen weight that is read a few rows at a time. */
export interface RowSource {
  rows: number;
  cols: number;
  /** Rows `begin` to `end`, in any type of floats. */
  read(begin: number, end: number): Handle;
}

/**
 * `x · Wᵀ` or `x · W`, with only a tile of W in floats at a time.
 *
 * @param x `[N, cols]` when `transposeWeight`, else `[N, rows]`; float32
 * @returns float32
 */
export function multiply(
  ops: Ops,
  x: Handle,
  {rows, cols, read}: RowSource,
  transposeWeight: boolean,
  {operands, isNative}: Products,
  tileElements = TILE_ELEMENTS,
): Handle {
  const rounded = (handle: Handle) =>
    ops.cast(ops.cast(handle, DataType[operands]), isNative ? DataType[operands] : DataType.float32);
  const operand = rounded(x);
  const tileRows = Math.max(1, Math.floor(tileElements / cols));
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
