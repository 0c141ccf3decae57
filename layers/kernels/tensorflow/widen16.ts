import type {HalfDtype} from '../../../quant/float16.ts';
import type {Ops} from './runOps.ts';
import {DataType, type Handle} from './tensorflowBackend.ts';

/**
 * Rows of packed 16-bit floats in their own type: no copy unless `cols` is odd.
 *
 * @param packed `[rows, ceil(cols / 2)]` int32
 * @returns `[rows, cols]` bfloat16 or float16
 */
export function halfRows(ops: Ops, packed: Handle, dtype: HalfDtype, cols: number): Handle {
  const [rows, words] = packed.shape;
  const halves = ops.reshape(ops.bitcast(packed, DataType[dtype]), [rows, 2 * words]);
  return cols % 2 === 0 ? halves : ops.slice(halves, [0, 0], [-1, cols]);
}

/** {@link halfRows} widened to float32, exactly. */
export function widen16(ops: Ops, packed: Handle, dtype: HalfDtype, cols: number): Handle {
  return ops.cast(halfRows(ops, packed, dtype, cols), DataType.float32);
}
