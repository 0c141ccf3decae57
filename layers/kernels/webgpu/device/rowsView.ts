import * as tf from '@tensorflow/tfjs';

/** A tensor, or some of its rows, as shaders bind it. */
export interface RowsView extends tf.TensorInfo {
  /** Position of the first row in the tensor's buffer, in bytes: a multiple of 256. Default 0, with the whole buffer. */
  firstByte?: number;
  /** Whether these are float16 stored octet by octet; see device/octets.ts. Default false, row by row. */
  inOctets?: boolean;
}

/** Every device binds buffers from multiples of this many bytes on. */
const ALIGNMENT = 256;

/** Rows that begin at a multiple of this number begin at a multiple of 256 bytes, regardless of their length. */
export const ROWS_STEP = ALIGNMENT / 4;

/**
 * Returns rows of a tensor of 4-byte numbers, along its first axis, for shaders to read or write. Owns nothing.
 *
 * @param begin in octets a multiple of 128
 */
export function rowsView<T extends RowsView>(x: T, begin: number, count: number): RowsView {
  const [rows, ...rest] = x.shape;
  if (begin === 0 && count === rows) return x;
  return {
    dataId: x.dataId,
    dtype: x.dtype,
    shape: [count, ...rest],
    inOctets: x.inOctets,
    firstByte: (x.firstByte ?? 0) + 4 * begin * tf.util.sizeFromShape(rest),
  };
}
