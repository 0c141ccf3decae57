import * as tf from '@tensorflow/tfjs';
import {mergedValue} from './mergedValue.ts';
import {flatten, type ModuleLayer, onlyInput, unflatten} from './moduleLayer.ts';
import {customGradient} from './ops/customGradient.ts';
import {takeRows} from './ops/takeRows.ts';
import {unpackMatrix} from './ops/unpackMatrix.ts';
import {withoutAllocation} from './parameter.ts';
import {ReplacedLayer} from './replacedLayer.ts';
import {TiedHead} from './tiedHead.ts';
import {TokenEmbedding} from './tokenEmbedding.ts';
import type {TokenRows} from './tokenRows.ts';
import {TransposedDense} from './transposedDense.ts';

/**
 * A frozen embedding or output head in which some tokens' rows train, as PEFT's `trainable_token_indices`. Input and
 * output are the base's.
 */
export class TokenRowsLayer extends ReplacedLayer<TokenEmbedding | TransposedDense, TokenRows> {
  static className = 'TokenRowsLayer';
  readonly #embedding?: TokenRowsLayer;

  /**
   * @param base a built layer that is not quantized
   * @param embedding for a tied head, the layer around its embedding
   */
  constructor(base: TokenEmbedding | TransposedDense, embedding?: TokenRowsLayer) {
    super(base);
    this.#embedding = embedding;
  }

  /**
   * Adds rows as an adapter and activates them.
   *
   * @throws TfjsLoraError `INVALID_ARGUMENT` for a name that exists
   */
  addRows(rows: TokenRows): TokenRows {
    this.assertNewName(rows.name);
    return this.keep(rows);
  }

  override assertActive(weights: ReadonlyMap<string, number>): void {
    this.assertOneActive(weights, 'rows of tokens (trainableTokenIndices)');
  }

  override get current(): ModuleLayer {
    return this.isMerged || !this.active ? this.base : this;
  }

  private get active(): TokenRows | undefined {
    return this.adapters.get(this.activeAdapters[0]);
  }

  override call(inputs: tf.Tensor | tf.Tensor[], kwargs?: object): tf.Tensor {
    const {active, base} = this;
    if (this.isMerged || !active) return base.apply(inputs, kwargs as {[key: string]: unknown}) as tf.Tensor;
    return tf.tidy(() => {
      const input = onlyInput(inputs);
      if (base instanceof TokenEmbedding) return lookUp(input.toInt(), base, active);
      const x = flatten(input, base.inputDim); // [N, C]
      return unflatten(project(x, base, active), input);
    });
  }

  /**
   * Puts a layer with the rows in its table, rounded to its type, in the base's place. A tied head stays tied.
   *
   * @throws TfjsLoraError `NON_FINITE`; the layer is then unchanged
   */
  override merge(): void {
    const {active, base} = this;
    if (this.isMerged || !active) return;
    const isTied = active.source && this.#embedding?.isMerged;
    const merged = isTied
      ? new TiedHead({name: this.name, embedding: this.#embedding!.base as TokenEmbedding})
      : emptyLike(base);
    if (isTied) merged.build([null, (base as TransposedDense).inputDim]);
    else
      tf.tidy(() => void merged.weight.write(mergedValue(merged.weight, tableOf(base, active), this.name)));
    merged.built = true;
    this.replaceBase(merged);
  }
}

/** Looks tokens up, `[..., T]` → `[..., T, C]`, those with rows in these. */
function lookUp(ids: tf.Tensor, base: TokenEmbedding, tokens: TokenRows): tf.Tensor {
  const vectors = base.apply(ids) as tf.Tensor; // [..., T, C]
  const flat = ids.flatten() as tf.Tensor1D;
  const {places, has} = tokens.places(base.vocabSize);
  const chosen = tf.gather(has, flat).expandDims(1); // [N, 1]
  const rows = takeRows(tokens.rows.read() as tf.Tensor as tf.Tensor2D, tf.gather(places, flat)); // [N, C]
  const others = tf.mul(vectors.reshape([flat.size, -1]), tf.sub(1, chosen));
  return tf.add(others, tf.mul(tf.mul(rows, base.scale), chosen)).reshape(vectors.shape);
}

/** Computes logits `[N, vocabSize]` of `x` `[N, C]`, those of tokens with rows by these. */
function project(x: tf.Tensor2D, base: TransposedDense, tokens: TokenRows): tf.Tensor2D {
  const rows = tokens.rows.read() as tf.Tensor as tf.Tensor2D; // [n, C]
  const own = base.multiply(x); // [N, vocabSize]
  const {places, has} = tokens.places(base.units);
  const indices = tf.tensor1d([...tokens.indices], 'int32');
  const ofRows = tf.matMul(x, rows, false, true); // [N, n]
  return customGradient(
    [own, ofRows],
    () => {
      const others = tf.sub(1, has); // [vocabSize]
      const placed = tf.mul(tf.gather(ofRows, places, 1), has);
      return {value: tf.add(tf.mul(own, others), placed) as tf.Tensor2D, saved: [others, indices]};
    },
    (dy, [others, indices]) => [tf.mul(dy, others), tf.gather(dy, indices as tf.Tensor1D, 1)],
  );
}

/** Returns a layer's table with the rows in their places, float32. */
function tableOf({weight}: TokenEmbedding | TransposedDense, tokens: TokenRows): tf.Tensor2D {
  const table = unpackMatrix(weight.matrix()); // [vocabSize, C]
  const {places, has} = tokens.places(table.shape[0]);
  const chosen = has.expandDims(1);
  const rows = tf.gather(tokens.rows.read() as tf.Tensor as tf.Tensor2D, places);
  return tf.add(tf.mul(table, tf.sub(1, chosen)), tf.mul(rows, chosen));
}

/** Returns a built layer with the settings of another and a table of its own without values. */
function emptyLike(base: TokenEmbedding | TransposedDense): TokenEmbedding | TransposedDense {
  const {name, storage} = base;
  return withoutAllocation(() => {
    if (base instanceof TokenEmbedding) {
      const {vocabSize, hiddenSize, scale} = base;
      const table = new TokenEmbedding({name, storage, vocabSize, hiddenSize, scale, trainable: false});
      table.build();
      return table;
    }
    const dense = new TransposedDense({name, storage, units: base.units, useBias: false, trainable: false});
    dense.build([null, base.inputDim]);
    return dense;
  });
}
