import type {HalfDtype} from '../../../../quant/float16.ts';
import type {Ops} from '../device/runOps.ts';
import {DataType, type Handle} from '../device/tensorflowBackend.ts';

/**
 * Returns rows of packed 16-bit floats in their own type, without a copy for all rows unless `cols` is odd. The bitcast
 * comes before the slice, because on a card TensorFlow slices no int32.
 *
 * @param packed `[rows, ceil(cols / 2)]` int32
 * @returns `[end − begin, cols]` bfloat16 or float16
 */
export function halfRows(
  ops: Ops,
  packed: Handle,
  dtype: HalfDtype,
  cols: number,
  begin = 0,
  end = packed.shape[0],
): Handle {
  const [rows, words] = packed.shape;
  const halves = ops.view(packed, dtype, () =>
    ops.reshape(ops.bitcast(packed, DataType[dtype]), [rows, 2 * words]),
  );
  const isWhole = end - begin === rows && cols === 2 * words;
  return isWhole ? halves : ops.slice(halves, [begin, 0], [end - begin, cols]);
}

/** {@link halfRows} widened to float32, exactly. */
export function widen16(
  ops: Ops,
  packed: Handle,
  dtype: HalfDtype,
  cols: number,
  begin?: number,
  end?: number,
): Handle {
  return ops.cast(halfRows(ops, packed, dtype, cols, begin, end), DataType.float32);
}
