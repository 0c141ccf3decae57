import * as tf from '@tensorflow/tfjs';
import {type HalfDtype, packFloat32Rows} from '../../quant/float16.ts';
import {dispatch} from './dispatch.ts';
import {op, type Tensors} from './op.ts';
import {storedShape} from './storedMatrix.ts';

export const pack16Op = op<Tensors<'value'>, {dtype: HalfDtype}, tf.Tensor2D>('Pack16');

/**
 * Rounds a float32 matrix to a 16-bit type, to nearest with ties to even, and packs it as {@link StoredMatrix}
 * describes. Not differentiable. The composed reference runs on the host.
 *
 * @param value `[rows, cols]` float32
 * @returns `[rows, ceil(cols / 2)]` int32
 */
export function pack16(value: tf.Tensor2D, dtype: HalfDtype): tf.Tensor2D {
  return dispatch(pack16Op, {value}, {dtype}, () => {
    const [rows, cols] = value.shape;
    const packed = packFloat32Rows(value.dataSync() as Float32Array, rows, cols, dtype);
    return tf.tensor2d(packed, storedShape(dtype, rows, cols), 'int32');
  });
}
