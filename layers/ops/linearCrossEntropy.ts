import * as tf from '@tensorflow/tfjs';
import {assertShape} from './assertShape.ts';
import {backendTraits} from './backendTraits.ts';
import {tokenLosses} from './crossEntropy.ts';
import {customGradient} from './customGradient.ts';
import {hasKernel, runKernel} from './dispatch.ts';
import {embedding} from './embedding.ts';
import {isSpent} from './freeSpent.ts';
import {isRecording} from './isRecording.ts';
import {op, type Tensors} from './op.ts';
import {scaleRows} from './scaleRows.ts';
import {softmaxCrossEntropy, softmaxCrossEntropyOp} from './softmaxCrossEntropy.ts';
import {storedMatMul} from './storedMatMul.ts';
import {
  attributesOf,
  fits16BitKernels,
  isQuantized,
  type StoredFormat,
  type StoredMatrix,
  type StoredTensors,
  tensorsOf,
} from './storedMatrix.ts';

/**
 * Returns the sum of the rows' losses or, with `ofEachRow`, the losses `[N]`, and if wanted the gradient of `hidden`. A
 * row of the gradient is that of the row's own loss. A kernel may overwrite `hidden` with it if that is spent.
 */
export const linearCrossEntropyOp = op<
  Tensors<'hidden' | 'labels'> & StoredTensors,
  StoredFormat & {wantsGradient: boolean; ofEachRow: boolean; isSpent: boolean},
  tf.Scalar | tf.Tensor1D | [loss: tf.Scalar | tf.Tensor1D, gradient: tf.Tensor]
>('LinearCrossEntropy');

/** Chunks have a multiple of this many rows, so that the tiles of a product divide them evenly. */
const CHUNK_MULTIPLE = 128;

/**
 * A frozen output head and its loss in one op: the sum over rows of `−log softmax(hidden · Wᵀ)[label]`. The logits
 * exist only chunk by chunk. If a gradient is wanted, the same pass computes it, so the logits are never needed again.
 * Rows labelled `ignoreIndex` do not count. A kernel ignores all negative labels.
 *
 * @param hidden `[N, C]` float32
 * @param weight `[vocab, C]`, frozen
 * @param labels `[N]` int32
 * @param chunkElements how many logits may exist at the same time
 * @param isSpent whether `hidden` is not needed again, so that a kernel may overwrite it
 * @returns scalar; a sum, not a mean
 */
export function linearCrossEntropy(
  hidden: tf.Tensor2D,
  weight: StoredMatrix,
  labels: tf.Tensor1D,
  ignoreIndex = -100,
  chunkElements = backendTraits().logitsAtOnce,
  isSpent = false,
): tf.Scalar {
  assertShapes(hidden, weight, labels);
  if (fitsKernel(weight, ignoreIndex)) return inOneOp(hidden, weight, labels, {ofEachRow: false, isSpent});
  const total = (losses: tf.Tensor1D[]) => tf.addN(losses.map((chunk) => tf.sum(chunk))) as tf.Scalar;
  return inChunks(hidden, weight, labels, ignoreIndex, chunkElements, total);
}

/**
 * Returns the loss of each row, for losses that weigh rows: `−log softmax(hidden · Wᵀ)[label]`, computed in chunks as
 * in {@link linearCrossEntropy}, with the same parameters.
 *
 * @returns `[N]`; 0 for rows labelled `ignoreIndex`
 */
export function linearTokenLosses(
  hidden: tf.Tensor2D,
  weight: StoredMatrix,
  labels: tf.Tensor1D,
  ignoreIndex = -100,
  chunkElements = backendTraits().logitsAtOnce,
  isSpent = false,
): tf.Tensor1D {
  assertShapes(hidden, weight, labels);
  if (fitsKernel(weight, ignoreIndex)) return inOneOp(hidden, weight, labels, {ofEachRow: true, isSpent});
  return inChunks(hidden, weight, labels, ignoreIndex, chunkElements, joined);
}

const fitsKernel = (weight: StoredMatrix, ignoreIndex: number): boolean =>
  hasKernel(linearCrossEntropyOp) && fits16BitKernels(weight) && ignoreIndex < 0;

/** The loss by a kernel. The gradient of the result multiplies each row of the saved gradient. */
function inOneOp<T extends tf.Tensor>(
  hidden: tf.Tensor2D,
  weight: StoredMatrix,
  labels: tf.Tensor1D,
  options: {ofEachRow: boolean; isSpent: boolean},
): T {
  const wantsGradient = isRecording();
  return customGradient(
    [hidden],
    () => {
      const attributes = {...attributesOf(weight), wantsGradient, ...options};
      const inputs = {hidden, labels, ...tensorsOf(weight)};
      const [value, ...saved] = [runKernel(linearCrossEntropyOp, inputs, attributes)].flat();
      return {value: value as tf.Tensor as T, saved};
    },
    (dy, [gradient]) => [scaleRows(gradient, dy, isSpent(gradient))],
  );
}

/**
 * The loss composed of other ops.
 *
 * @param combine makes the result of each chunk's losses `[n]`
 */
function inChunks<T extends tf.Tensor>(
  hidden: tf.Tensor2D,
  weight: StoredMatrix,
  labels: tf.Tensor1D,
  ignoreIndex: number,
  chunkElements: number,
  combine: (losses: tf.Tensor1D[]) => T,
): T {
  const wantsGradient = isRecording();
  return tf.tidy(() =>
    customGradient(
      [hidden],
      () => {
        const {losses, saved} = chunkedLosses(
          hidden,
          weight,
          labels,
          ignoreIndex,
          chunkElements,
          wantsGradient,
        );
        return {value: combine(losses), saved};
      },
      (dy, [gradient]) => [scaleRows(gradient, dy, isSpent(gradient))],
    ),
  );
}

function assertShapes(hidden: tf.Tensor2D, weight: StoredMatrix, labels: tf.Tensor1D): void {
  assertShape('linearCrossEntropy hidden', hidden, [-1, weight.cols]);
  assertShape('linearCrossEntropy labels', labels, [hidden.shape[0]]);
}

const joined = <T extends tf.Tensor>(parts: T[]): T => (parts.length === 1 ? parts[0] : tf.concat(parts, 0));

/** Returns the losses of each chunk's rows, and as `saved` each row's gradient of `hidden` if one is wanted. */
function chunkedLosses(
  hidden: tf.Tensor2D,
  weight: StoredMatrix,
  labels: tf.Tensor1D,
  ignoreIndex: number,
  chunkElements: number,
  wantsGradient: boolean,
): {losses: tf.Tensor1D[]; saved: tf.Tensor[]} {
  const fitting = Math.max(1, Math.floor(chunkElements / weight.rows));
  const chunkRows = fitting > CHUNK_MULTIPLE ? fitting - (fitting % CHUNK_MULTIPLE) : fitting;
  const [rows] = hidden.shape;
  const losses: tf.Tensor1D[] = [];
  const gradients: tf.Tensor2D[] = [];
  const isInOnePass = hasKernel(softmaxCrossEntropyOp); // the composed op would make the labels as wide as the vocabulary
  for (let row = 0; row < rows; row += chunkRows) {
    const count = Math.min(chunkRows, rows - row);
    const [loss, gradient] = tf.tidy(() => {
      const x = hidden.slice([row, 0], [count, -1]); // [n, C]
      const target = labels.slice([row], [count]); // [n]
      const logits = storedMatMul(x, weight, true); // [n, vocab]
      if (isInOnePass) {
        const [losses, gradient] = softmaxCrossEntropy(logits, target, ignoreIndex); // [n], [n, vocab]
        return [losses, ...(wantsGradient ? [storedMatMul(gradient, weight, false)] : [])];
      }
      const loss = tokenLosses(logits, target, ignoreIndex); // [n]
      if (!wantsGradient) return [loss];
      const counted = tf.notEqual(target, ignoreIndex).toFloat().expandDims(1); // [n, 1]
      const safeTarget = tf.maximum(target, 0).toInt();
      const fromAll = storedMatMul(tf.softmax(logits), weight, false); // [n, C]
      const fromTarget = isQuantized(weight)
        ? storedMatMul(tf.oneHot(safeTarget, weight.rows).toFloat() as tf.Tensor2D, weight, false)
        : embedding(safeTarget, weight); // [n, C]
      return [loss, tf.mul(tf.sub(fromAll, fromTarget), counted) as tf.Tensor2D];
    }) as [tf.Tensor1D, tf.Tensor2D?];
    losses.push(loss);
    if (gradient) gradients.push(gradient);
  }
  return {losses, saved: gradients.length > 0 ? [joined(gradients)] : []};
}
