import * as tf from '@tensorflow/tfjs';
import {dynamicMap} from '../../quant/blockwise/codebooks.ts';
import {codesOfSteps} from '../../quant/blockwise/dynamic8Bit.ts';
import {assertShape} from './assertShape.ts';
import {dispatch} from './dispatch.ts';
import {op, type Tensors} from './op.ts';

export const fromBlockwise8bitOp = op<Tensors<'codes' | 'absmax'>, {isSigned: boolean; shape: number[]}>(
  'FromBlockwise8bit',
);
/** Returns codes and absmax. */
export const toBlockwise8bitOp = op<Tensors<'values'>, {isSigned: boolean}, tf.Tensor[]>('ToBlockwise8bit');

/** Number of values that share a scale, as in bitsandbytes' 8-bit optimizers. */
export const STATE_BLOCK_SIZE = 256;

/** A tensor in blocks of {@link STATE_BLOCK_SIZE} 8-bit codes. */
export interface Blockwise8bit {
  /** int32 `[ceil(values / 4)]`: one code per value, four to a word, the first in the lowest byte. */
  codes: tf.Tensor;
  /** float32 `[ceil(values / 256)]`: the largest magnitude of each block. */
  absmax: tf.Tensor;
}

/** Returns the shapes of a {@link Blockwise8bit} that holds `size` values. */
export function blockwise8bitShapes(size: number): {codes: [number]; absmax: [number]} {
  return {codes: [Math.ceil(size / 4)], absmax: [Math.ceil(size / STATE_BLOCK_SIZE)]};
}

/** @throws TfjsLoraError `SHAPE_MISMATCH` when the tensors do not hold `size` values */
export function assertBlockwise8bit(what: string, {codes, absmax}: Blockwise8bit, size: number): void {
  const shapes = blockwise8bitShapes(size);
  assertShape(`${what} codes`, codes, shapes.codes);
  assertShape(`${what} absmax`, absmax, shapes.absmax);
}

/**
 * Dequantizes codes to float32 values of `shape`, exactly: `map[code] · absmax`.
 *
 * @param isSigned which dynamic map the codes point into
 */
export function fromBlockwise8bit(
  {codes, absmax}: Blockwise8bit,
  isSigned: boolean,
  shape: number[],
): tf.Tensor {
  return dispatch(fromBlockwise8bitOp, {codes, absmax}, {isSigned, shape}, () => {
    const size = tf.util.sizeFromShape(shape);
    const perCode = tf.gather(tf.tensor1d(dynamicMap(isSigned)), bytesOf(codes)).slice(0, size);
    return inBlocks(perCode as tf.Tensor1D)
      .mul(absmax.expandDims(1)) // [blocks, 256]
      .flatten()
      .slice(0, size)
      .reshape(shape);
  });
}

/**
 * Quantizes values as bitsandbytes does on the CPU: each value is divided by its block's largest magnitude and rounded
 * to one of 65,536 steps, and the code is that of the map's nearest value to this step.
 */
export function toBlockwise8bit(values: tf.Tensor, isSigned: boolean): Blockwise8bit {
  const [codes, absmax] = dispatch(toBlockwise8bitOp, {values}, {isSigned}, () => {
    const {size} = values;
    const blocks = inBlocks(values.flatten());
    const largest = blocks.abs().max(1); // [blocks]
    const isZero = largest.equal(0);
    const inverse = tf.scalar(1).div(tf.where(isZero, tf.onesLike(largest), largest));
    const normal = blocks.mul(inverse.expandDims(1)).clipByValue(-1, 1); // [blocks, 256]
    const steps = normal.add(1).mul(0.5).mul(65535).add(0.5).floor().toInt();
    const table = tf.tensor1d(Int32Array.from(codesOfSteps(dynamicMap(isSigned))), 'int32');
    const perValue = tf.gather(table, steps).mul(tf.logicalNot(isZero).toInt().expandDims(1));
    const [words] = blockwise8bitShapes(size).codes;
    const bytes = perValue.flatten().slice(0, size) as tf.Tensor1D;
    return [wordsOf(bytes.pad([[0, 4 * words - size]])), largest];
  });
  return {codes, absmax};
}

/** Reshapes `[n]` to `[ceil(n / 256), 256]`, with zeros at the end. */
function inBlocks(values: tf.Tensor1D): tf.Tensor2D {
  const blocks = Math.ceil(values.size / STATE_BLOCK_SIZE);
  const padded = values.pad([[0, blocks * STATE_BLOCK_SIZE - values.size]]);
  return padded.reshape([blocks, STATE_BLOCK_SIZE]);
}

/** Splits words into their bytes, the lowest first: int32 `[words]` → int32 `[4 · words]`. */
function bytesOf(words: tf.Tensor): tf.Tensor1D {
  const radix = tf.scalar(256, 'int32');
  const bytes: tf.Tensor[] = [];
  for (let rest = words; bytes.length < 4; ) {
    const low = rest.mod(radix); // floor-mod: 0 … 255
    bytes.push(low);
    rest = rest.sub(low).floorDiv(radix);
  }
  return tf.stack(bytes, 1).flatten().toInt();
}

/** The reverse of {@link bytesOf}. */
function wordsOf(bytes: tf.Tensor1D): tf.Tensor1D {
  const [first, second, third, fourth] = bytes.reshape([-1, 4]).unstack(1);
  const signed = fourth.sub(fourth.greater(127).toInt().mul(tf.scalar(256, 'int32')));
  return [third, second, first].reduce(
    (word, byte) => word.mul(tf.scalar(256, 'int32')).add(byte),
    signed,
  ) as tf.Tensor1D;
}
