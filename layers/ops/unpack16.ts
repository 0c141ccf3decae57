import * as tf from '@tensorflow/tfjs';
import {type HalfDtype, unpackRows} from '../../quant/float16.ts';
import {assertShape} from './assertShape.ts';
import {dispatch} from './dispatch.ts';
import {op, type Tensors} from './op.ts';

export const unpack16Op = op<Tensors<'packed'>, {dtype: HalfDtype; cols: number}, tf.Tensor2D>('Unpack16');

/** All 65,536 values of a 16-bit type, in the order of their bits. */
const tables: Partial<Record<HalfDtype, Float32Array>> = {};

function tableOf(dtype: HalfDtype): Float32Array {
  const allBits = () => Int32Array.from({length: 32768}, (_, i) => (2 * i) | ((2 * i + 1) << 16));
  const table = tables[dtype] ?? unpackRows(allBits(), 1, 65536, dtype);
  tables[dtype] = table;
  return table;
}

/**
 * Widens rows of packed 16-bit floats to float32, exactly. Not differentiable: packed weights are frozen.
 *
 * The composed reference splits each word with integer arithmetic and looks both halves up in a table of
 * the type's 65,536 values.
 *
 * @param packed `[rows, ceil(cols / 2)]` int32, see {@link StoredMatrix}
 * @returns `[rows, cols]` float32
 */
export function unpack16(packed: tf.Tensor2D, dtype: HalfDtype, cols: number): tf.Tensor2D {
  assertShape('unpack16 packed', packed, [-1, Math.ceil(cols / 2)]);
  return dispatch(unpack16Op, {packed}, {dtype, cols}, () => {
    const table = tf.tensor1d(tableOf(dtype));
    const low = tf.mod(packed, tf.scalar(65536, 'int32')); // floor-mod: 0 … 65535
    const high = tf.mod(
      tf.floorDiv(tf.sub(packed, low), tf.scalar(65536, 'int32')),
      tf.scalar(65536, 'int32'),
    );
    const halves = tf.stack([low, high], 2).reshape([packed.shape[0], 2 * packed.shape[1]]);
    return tf.slice(tf.gather(table, halves.toInt()) as tf.Tensor as tf.Tensor2D, 0, [-1, cols]);
  });
}
