import * as tf from '@tensorflow/tfjs';
import {FP4_CODE, NF4_CODE} from '../../quant/blockwise/codebooks.ts';
import {FLOAT8_VALUES} from '../../quant/grouped/float8.ts';
import {dispatch} from './dispatch.ts';
import {op} from './op.ts';
import {
  type DeviceFormat,
  type FourBitMatrix,
  type GroupedMatrix,
  groupGrid,
  type Int8Matrix,
  type QuantizedMatrix,
} from './quantizedMatrix.ts';
import {round16} from './round16.ts';
import type {StoredTensors} from './storedMatrix.ts';
import {unpack16} from './unpack16.ts';

/** Returns rows `begin` to `end`. */
export const dequantizeRowsOp = op<StoredTensors, DeviceFormat & {begin: number; end: number}, tf.Tensor2D>(
  'DequantizeRows',
);

/** bitsandbytes multiplies by the float32 nearest to 1/127 instead of dividing. */
const ONE_OF_127 = Math.fround(1 / 127);

/**
 * Dequantizes rows `begin` to `end` of a quantized matrix to float32, bit-exact with the method's own library. Not
 * differentiable: quantized weights are frozen.
 *
 * 4-bit values are rounded to the type that the weight had before, as in bitsandbytes.
 *
 * The composed reference splits words into nibbles or bytes with integer arithmetic and looks them up.
 *
 * @returns `[end − begin, cols]` float32
 */
export function dequantizeRows(matrix: QuantizedMatrix, begin = 0, end = matrix.rows): tf.Tensor2D {
  if (matrix.dtype === 'hosted') {
    return tf.tensor2d(matrix.matrix.dequantizeRows(begin, end), [end - begin, matrix.cols]);
  }
  const {tensors, ...attributes} = matrix;
  return dispatch(dequantizeRowsOp, {...tensors}, {...attributes, begin, end}, () => {
    if (matrix.dtype === 'int8') return int8Rows(matrix, begin, end);
    return matrix.dtype === 'grouped' ? groupedRows(matrix, begin, end) : fourBitRows(matrix, begin, end);
  });
}

function groupedRows(matrix: GroupedMatrix, begin: number, end: number): tf.Tensor2D {
  const {cols, codeType, groupRows, groupCols, valueDtype, tensors} = matrix;
  const [down, across] = groupGrid(matrix);
  const perWord = codeType === 'uint4' ? 8 : 4;
  const words = tf.slice(tensors.codes, [(begin * cols) / perWord], [((end - begin) * cols) / perWord]);
  const numbers = split(words, perWord).reshape([end - begin, cols]);
  const codes =
    codeType === 'e4m3'
      ? tf.gather(tf.tensor1d(FLOAT8_VALUES as Float32Array), numbers.toInt())
      : numbers.toFloat();
  // The groups of these rows and of all columns.
  const groupsDown = Int32Array.from({length: end - begin}, (_, i) => Math.floor((begin + i) / groupRows));
  const groupsAcross =
    tensors.groupIndex ??
    tf.tensor1d(
      Int32Array.from({length: cols}, (_, col) => Math.floor(col / groupCols)),
      'int32',
    );
  const spread = (groups: tf.Tensor): tf.Tensor2D => {
    const grid = groups.reshape<tf.Tensor2D>([down, across]);
    return tf.gather(tf.gather(grid, tf.tensor1d(groupsDown, 'int32')), groupsAcross as tf.Tensor1D, 1);
  };
  const {zeros, scales} = tensors;
  const zero = zeros && tf.slice(split(zeros, 4).flatten(), [0], [down * across]).toFloat();
  const values = tf.mul(zero ? tf.sub(codes, spread(zero)) : codes, spread(scales)) as tf.Tensor2D;
  return valueDtype === 'float32' ? values : round16(values, valueDtype);
}

function fourBitRows(matrix: FourBitMatrix, begin: number, end: number): tf.Tensor2D {
  const {dtype, rows, cols, blockSize, valueDtype, tensors} = matrix;
  const [first, last] = [begin * cols, end * cols];
  // A row may begin inside a block, so whole blocks are dequantized and cut. A block is whole words.
  const [firstBlock, lastBlock] = [Math.floor(first / blockSize), Math.ceil(last / blockSize)];
  const [from, to] = [firstBlock * blockSize, Math.min(lastBlock * blockSize, rows * cols)];
  const words = tf.slice(tensors.codes, [from / 8], [Math.ceil(to / 8) - from / 8]);
  const codes = split(words, 8, [1, 0, 3, 2, 5, 4, 7, 6]).flatten();
  const whole = tf.pad(codes, [[0, (lastBlock - firstBlock) * blockSize - codes.size]]);
  const book = tf.tensor1d((dtype === 'nf4' ? NF4_CODE : FP4_CODE) as Float32Array);
  const normal = tf.gather(book, whole.toInt()).reshape([-1, blockSize]); // [blocks, blockSize]
  const values = tf.mul(normal, blockScales(matrix, firstBlock, lastBlock).expandDims(1)).flatten();
  const cut = tf.slice(values, [first - from], [last - first]).reshape<tf.Tensor2D>([end - begin, cols]);
  return valueDtype === 'float32' ? cut : round16(cut, valueDtype);
}

/** Returns the scales of blocks `begin` to `end`. */
function blockScales(
  {tensors, nestedBlockSize, offset}: FourBitMatrix,
  begin: number,
  end: number,
): tf.Tensor {
  if ('absmax' in tensors) return tf.slice(tensors.absmax, [begin], [end - begin]);
  const [first, last] = [Math.floor(begin / nestedBlockSize), Math.ceil(end / nestedBlockSize)];
  const word = Math.floor(begin / 4);
  const bytes = split(tf.slice(tensors.absmaxCodes, [word], [Math.ceil(end / 4) - word]), 4).flatten();
  const codes = tf.slice(bytes, [begin - 4 * word], [end - begin]).toInt();
  const nested = tf.slice(tensors.nestedAbsmax, [first], [last - first]);
  const repeated = tf.tile(nested.expandDims(1), [1, nestedBlockSize]).flatten();
  const scales = tf.slice(repeated, [begin - first * nestedBlockSize], [end - begin]);
  return tf.add(tf.mul(tf.gather(tensors.map, codes), scales), offset);
}

function int8Rows(matrix: Int8Matrix, begin: number, end: number): tf.Tensor2D {
  const {cols, outliers, outlierDtype, tensors} = matrix;
  const [first, last] = [begin * cols, end * cols];
  const word = Math.floor(first / 4);
  const bytes = split(tf.slice(tensors.codes, [word], [Math.ceil(last / 4) - word]), 4).flatten();
  const unsigned = tf
    .slice(bytes, [first - 4 * word], [last - first])
    .reshape([end - begin, cols])
    .toFloat();
  const codes = tf.where(tf.greater(unsigned, 127), tf.sub(unsigned, 256), unsigned);
  const scales = tf.slice(tensors.scales, [begin], [end - begin]).expandDims(1);
  const values = tf.mul(tf.mul(codes, scales), ONE_OF_127) as tf.Tensor2D;
  const {outlierIndex, outlierValues} = tensors;
  if (!outlierIndex || !outlierValues) return values;
  const stored = tf.slice(outlierValues as tf.Tensor2D, [begin, 0], [end - begin, -1]);
  const kept = unpack16(stored, outlierDtype, outliers);
  const spread = tf.gather(kept, tf.maximum(outlierIndex, 0).toInt(), 1);
  return tf.where(
    tf
      .greaterEqual(outlierIndex, 0)
      .expandDims(0)
      .tile([end - begin, 1]),
    spread,
    values,
  );
}

/** Splits words into `count` equal parts, the low end first, or in `order`: `[words, count]` int32 from 0. */
function split(words: tf.Tensor, count: 4 | 8, order?: number[]): tf.Tensor {
  // By halves: some backends divide int32 as float32, which is exact for numbers of up to 24 significant bits.
  let parts = [words];
  for (let bits = 16; parts.length < count; bits /= 2) {
    const base = tf.scalar(2 ** bits, 'int32');
    parts = parts.flatMap((part) => {
      const low = tf.mod(part, base); // floor-mod: never negative
      return [low, tf.mod(tf.floorDiv(tf.sub(part, low), base), base)];
    });
  }
  return tf.stack(order ? order.map((i) => parts[i]) : parts, 1);
}
