import * as tf from '@tensorflow/tfjs';
import {unpackMatrix} from '../layers/ops/unpackMatrix.ts';
import {type Parameter, withoutAllocation} from '../layers/parameter.ts';
import {QuantizedDense} from '../layers/quantizedDense.ts';
import {TiedHead} from '../layers/tiedHead.ts';
import {TokenEmbedding} from '../layers/tokenEmbedding.ts';
import {TransposedDense} from '../layers/transposedDense.ts';
import {TfjsLoraError} from '../quant/errors.ts';
import {assertKnownOptions, type OptionNames} from '../quant/knownOptions.ts';
import {show} from '../quant/show.ts';
import {type LayeredModel, replaceLayer} from './replaceLayer.ts';

/**
 * How new rows are drawn: `mean`, from a normal distribution with the mean of the rows and 1e-9 of their covariance, as
 * transformers' `mean_resizing`; `noise`, the mean plus normal(0, 1/√hiddenSize), as LLaMA-Factory.
 */
export type NewRows = 'mean' | 'noise';

export interface ResizeVocabOptions {
  /** Distribution that new rows are drawn from. Default `mean`. */
  newRows?: NewRows;
  /** Rounds the size up to a multiple of this. Default 1. */
  padToMultipleOf?: number;
  /** Seed for the new rows. Default 0. */
  seed?: number;
}
export const RESIZE_VOCAB_OPTIONS = {
  newRows: true,
  padToMultipleOf: true,
  seed: true,
} satisfies OptionNames<ResizeVocabOptions>;

/** Share of the rows' covariance that new rows have, in transformers. */
const COVARIANCE = 1e-9;

/**
 * Gives the embedding, and a head with a table of its own, another number of rows; see `CausalLM.resizeVocab`.
 *
 * @returns the new size
 */
export function resizeTables(model: LayeredModel, size: number, options: ResizeVocabOptions): number {
  assertKnownOptions('resizeVocab', options, RESIZE_VOCAB_OPTIONS);
  const {newRows = 'mean', padToMultipleOf = 1, seed = 0} = options;
  const isCount = (value: number) => Number.isInteger(value) && value > 0;
  if (!isCount(size)) throw wrong('size', 'a positive integer', size);
  if (!isCount(padToMultipleOf)) throw wrong('padToMultipleOf', 'a positive integer', padToMultipleOf);
  if (newRows !== 'mean' && newRows !== 'noise') throw wrong('newRows', "'mean' or 'noise'", newRows);
  const rows = Math.ceil(size / padToMultipleOf) * padToMultipleOf;
  const embedding = model.layers.find((layer) => layer instanceof TokenEmbedding);
  const head = model.lm_head;
  if (!embedding || !(head instanceof TransposedDense) || head instanceof QuantizedDense) {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      'resizeVocab: expected an embedding and a head without adapters in 16 or 32 bits, got ' +
        `${[embedding ?? 'no embedding', head].map((layer) => (typeof layer === 'object' ? layer.constructor.name : layer)).join(' and ')}. ` +
        'Resize before applyLoRA and quantize.',
    );
  }
  const draw = (from: Parameter, to: Parameter, seed: number) => {
    if (from.isAllocated) tf.tidy(() => void to.write(to.stored(resized(from, rows, newRows, seed))));
  };
  const {name, hiddenSize, storage, scale} = embedding;
  const trainable = embedding.isTrainableAlone;
  const table = new TokenEmbedding({name, vocabSize: rows, hiddenSize, storage, scale, trainable});
  withoutAllocation(() => table.build());
  draw(embedding.weight, table.weight, seed);
  const dense =
    head instanceof TiedHead
      ? new TiedHead({name: head.name, embedding: table})
      : new TransposedDense({
          name: head.name,
          units: rows,
          useBias: head.useBias,
          storage: head.storage,
          trainable: head.isTrainableAlone,
        });
  withoutAllocation(() => dense.build([null, hiddenSize]));
  if (!(dense instanceof TiedHead)) draw(head.weight, dense.weight, seed + 1);
  replaceLayer(model, embedding, table);
  replaceLayer(model, head, dense);
  embedding.disposeWeights();
  head.disposeWeights();
  return rows;
}

/** Returns the table with the first `size` of its rows, or with new ones. */
function resized(from: Parameter, size: number, newRows: NewRows, seed: number): tf.Tensor2D {
  const old = unpackMatrix(from.matrix()); // [vocabSize, C]
  const [vocabSize, width] = old.shape;
  if (size <= vocabSize) return tf.mul(old.slice([0, 0], [size, width]), 1); // in memory of its own
  const count = size - vocabSize;
  const mean = tf.mean(old, 0, true); // [1, C]
  const noise =
    newRows === 'noise'
      ? tf.randomNormal<tf.Rank.R2>([count, width], 0, 1 / Math.sqrt(width), 'float32', seed)
      : tf.matMul(
          tf.randomNormal<tf.Rank.R2>(
            [count, vocabSize],
            0,
            Math.sqrt(COVARIANCE / vocabSize),
            'float32',
            seed,
          ),
          tf.sub<tf.Tensor2D>(old, mean), // sums of centred rows have their covariance
        );
  return tf.concat([old, tf.add<tf.Tensor2D>(mean, noise)]);
}

function wrong(what: string, expected: string, got: unknown): TfjsLoraError {
  return new TfjsLoraError('INVALID_ARGUMENT', `resizeVocab ${what}: expected ${expected}, got ${show(got)}`);
}
