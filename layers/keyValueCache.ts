import * as tf from '@tensorflow/tfjs';
import {TfjsLoraError} from '../quant/errors.ts';

/**
 * The keys and values that attention has already computed, layer by layer, so that generation feeds one new
 * position at a time instead of the whole sequence.
 *
 * The cache owns its tensors: they outlive the `tf.tidy` they were made in, and are freed when a longer version
 * replaces them, by {@link select}, or by {@link dispose}. Callers must not dispose what {@link update} returns.
 */
export class KeyValueCache {
  private layers: {keys: tf.Tensor4D; values: tf.Tensor4D}[] = [];
  private isDisposed = false;

  /**
   * Positions that every layer holds so far: 0 before the first forward pass. Read it before the first layer
   * of a pass updates, when all layers agree.
   */
  get length(): number {
    return this.layers.length === 0 ? 0 : Math.min(...this.layers.map(({keys}) => keys.shape[2]));
  }

  /** Positions that one layer holds so far, also in the middle of a pass. */
  lengthOf(layerIndex: number): number {
    return this.layers[layerIndex]?.keys.shape[2] ?? 0;
  }

  /** Rows of the batch held, or undefined before the first forward pass. */
  get batchSize(): number | undefined {
    return this.layers[0]?.keys.shape[0];
  }

  /**
   * Appends the keys and values of new positions to one layer.
   *
   * @param layerIndex 0 is the first decoder block; the first pass must fill the layers in order
   * @param keys `[B, keyValueHeads, T, headDim]` float32, rotary embedding already applied
   * @param values `[B, keyValueHeads, T, headDim]` float32
   * @returns keys and values of all positions so far, each `[B, keyValueHeads, past + T, headDim]`; owned by
   *   the cache
   * @throws TfjsLoraError `SHAPE_MISMATCH` when they do not continue what the layer holds; `DISPOSED`
   */
  update(layerIndex: number, keys: tf.Tensor4D, values: tf.Tensor4D): [tf.Tensor4D, tf.Tensor4D] {
    this.assertUsable();
    if (!Number.isInteger(layerIndex) || layerIndex < 0 || layerIndex > this.layers.length) {
      throw new TfjsLoraError(
        'INVALID_ARGUMENT',
        `KeyValueCache.update layerIndex: expected 0 to ${this.layers.length} (layers fill in order), got ${layerIndex}`,
      );
    }
    const past = this.layers[layerIndex];
    assertContinues(`KeyValueCache layer ${layerIndex} keys`, keys, past?.keys);
    assertContinues(`KeyValueCache layer ${layerIndex} values`, values, past?.values);
    if (keys.shape[0] !== values.shape[0] || keys.shape[2] !== values.shape[2]) {
      throw new TfjsLoraError(
        'SHAPE_MISMATCH',
        `KeyValueCache layer ${layerIndex} values: expected the batch and positions of the keys ` +
          `[${keys.shape.join(', ')}], got [${values.shape.join(', ')}]`,
      );
    }
    const layer = past
      ? {keys: tf.concat([past.keys, keys], 2), values: tf.concat([past.values, values], 2)}
      : {keys: tf.clone(keys), values: tf.clone(values)};
    this.replace(layerIndex, layer);
    return [layer.keys, layer.values];
  }

  /**
   * Keeps only some rows of the batch, in the given order: drops finished sequences, or reorders them.
   *
   * @param batchIndices rows to keep; a row may appear more than once
   * @throws TfjsLoraError `INVALID_ARGUMENT` for no rows or a row that is not there; `DISPOSED`
   */
  select(batchIndices: number[]): void {
    this.assertUsable();
    const size = this.batchSize ?? 0;
    if (
      batchIndices.length === 0 ||
      batchIndices.some((row) => !Number.isInteger(row) || row < 0 || row >= size)
    ) {
      throw new TfjsLoraError(
        'INVALID_ARGUMENT',
        `KeyValueCache.select batchIndices: expected rows of 0 to ${size - 1}, got [${batchIndices.join(', ')}]`,
      );
    }
    const rows = tf.tensor1d(batchIndices, 'int32');
    this.layers.forEach(({keys, values}, layerIndex) => {
      this.replace(layerIndex, {keys: tf.gather(keys, rows), values: tf.gather(values, rows)});
    });
    rows.dispose();
  }

  /** Frees every tensor held. Safe to call twice. */
  dispose(): void {
    for (const {keys, values} of this.layers) tf.dispose([keys, values]);
    this.layers = [];
    this.isDisposed = true;
  }

  private replace(layerIndex: number, layer: {keys: tf.Tensor4D; values: tf.Tensor4D}): void {
    const past = this.layers[layerIndex];
    this.layers[layerIndex] = {keys: tf.keep(layer.keys), values: tf.keep(layer.values)};
    if (past) tf.dispose([past.keys, past.values]);
  }

  private assertUsable(): void {
    if (this.isDisposed) {
      throw new TfjsLoraError('DISPOSED', 'KeyValueCache: expected a live cache, got one that was disposed');
    }
  }
}

function assertContinues(what: string, added: tf.Tensor, past?: tf.Tensor): void {
  const expected = past ? [past.shape[0], past.shape[1], '*', past.shape[3]] : ['*', '*', '*', '*'];
  const matches =
    added.rank === 4 && expected.every((size, axis) => size === '*' || size === added.shape[axis]);
  if (!matches) {
    throw new TfjsLoraError(
      'SHAPE_MISMATCH',
      `${what}: expected [${expected.join(', ')}], got [${added.shape.join(', ')}]`,
    );
  }
}
