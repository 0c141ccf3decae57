import * as tf from '@tensorflow/tfjs';
import {TfjsLoraError} from '../quant/errors.ts';
import type {ScoreOptions} from './ops/attention.ts';
import {type DecodeAttentionInputs, decodeAttention} from './ops/decodeAttention.ts';

/** How many positions {@link KeyValueCache.attend} adds room for in one step. */
const ROOM = 256;

/** `[B, keyValueHeads, capacity, headDim]` float32. */
interface CachedTensors {
  keys: tf.Tensor4D;
  values: tf.Tensor4D;
}

/** A layer's tensors, of which the first `length` positions count. */
interface CachedLayer extends CachedTensors {
  length: number;
}

/**
 * The keys and values that attention has already computed, layer by layer, so that generation feeds one new
 * position at a time instead of the whole sequence.
 *
 * The cache owns its tensors: they outlive the `tf.tidy` they were made in, and are freed when a longer version
 * replaces them, by {@link select}, or by {@link dispose}. Callers must not dispose what {@link update} returns.
 */
export class KeyValueCache {
  private layers: CachedLayer[] = [];
  private isDisposed = false;

  /**
   * Number of positions that every layer holds: 0 before the first forward pass. Read it before the first layer
   * of a pass updates, when all layers agree.
   */
  get length(): number {
    return this.layers.length === 0 ? 0 : Math.min(...this.layers.map(({length}) => length));
  }

  /** Returns the number of positions that one layer holds, even in the middle of a pass. */
  lengthOf(layerIndex: number): number {
    return this.layers[layerIndex]?.length ?? 0;
  }

  /** Number of positions that fit into every layer's tensors before {@link attend} makes more room. */
  get capacity(): number {
    return this.layers.length === 0 ? 0 : Math.min(...this.layers.map(({keys}) => keys.shape[2]));
  }

  /**
   * The tensors of all layers, which the cache owns. A pass may write to positions from {@link length} on; see
   * {@link advance}.
   */
  get tensors(): readonly CachedTensors[] {
    return this.layers;
  }

  /** Number of batch rows, or undefined before the first forward pass. */
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
   * @throws TfjsLoraError `SHAPE_MISMATCH` when they do not fit the layer's earlier keys and values; `DISPOSED`
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
    const joined = (past: tf.Tensor4D, added: tf.Tensor4D) =>
      tf.concat([this.used(layerIndex, past), added], 2);
    const layer = tf.tidy(() =>
      past
        ? {keys: joined(past.keys, keys), values: joined(past.values, values)}
        : {keys: tf.clone(keys), values: tf.clone(values)},
    );
    this.replace(layerIndex, {...layer, length: layer.keys.shape[2]});
    return [layer.keys, layer.values];
  }

  /**
   * Computes the attention of one new position and adds the position to the cache; see {@link decodeAttention}. The
   * layer must already hold positions. Room is made for 256 positions at a time.
   *
   * @returns the attended values, `[B, H·D]`
   * @throws TfjsLoraError `SHAPE_MISMATCH`; `INVALID_ARGUMENT` for a layer that holds none; `DISPOSED`
   */
  attend(
    layerIndex: number,
    inputs: Omit<DecodeAttentionInputs, 'keys' | 'values'>,
    scoring?: ScoreOptions,
  ): tf.Tensor2D {
    this.assertUsable();
    const layer = this.layers[layerIndex];
    if (!layer) {
      throw new TfjsLoraError(
        'INVALID_ARGUMENT',
        `KeyValueCache.attend layerIndex: expected one of ${this.layers.length} filled layers, got ${layerIndex}`,
      );
    }
    return tf.tidy(() => {
      const {length} = layer;
      const all = {...inputs, ...this.withRoom(layerIndex)};
      const [attended, keys, values] = decodeAttention(all, length, scoring);
      this.replace(layerIndex, {keys, values, length: length + 1});
      return attended;
    });
  }

  /**
   * Runs one new position through all layers and adds it to the cache. Every layer must already hold the same
   * positions.
   *
   * @param run gets the layers' tensors with room for the position, and returns the tensors that replace them, or the
   *   same
   * @throws TfjsLoraError `INVALID_ARGUMENT` before the first pass; `DISPOSED`
   */
  attendAll<T extends tf.Tensor>(
    run: (layers: CachedTensors[], past: number) => {y: T; caches: CachedTensors[]},
  ): T {
    this.assertUsable();
    if (this.layers.length === 0) {
      throw new TfjsLoraError(
        'INVALID_ARGUMENT',
        'KeyValueCache.attendAll: expected filled layers, got none',
      );
    }
    return tf.tidy(() => {
      const {length} = this;
      const {y, caches} = run(
        this.layers.map((_, layerIndex) => this.withRoom(layerIndex)),
        length,
      );
      caches.forEach((cached, layerIndex) => {
        this.replace(layerIndex, {...cached, length: length + 1});
      });
      return y;
    });
  }

  /** Returns a layer's tensors, or longer ones if they are full. */
  private withRoom(layerIndex: number): CachedTensors {
    const {keys, values, length} = this.layers[layerIndex];
    const [batch, groups, capacity, dim] = keys.shape;
    if (length < capacity) return {keys, values};
    const roomy = (cache: tf.Tensor4D) => {
      const room = tf.zeros<tf.Rank.R4>([batch, groups, ROOM - (length % ROOM), dim]);
      return tf.concat([this.used(layerIndex, cache), room], 2);
    };
    return {keys: roomy(keys), values: roomy(values)};
  }

  /**
   * Counts the position that something else, such as a replay of {@link attend}, wrote into the tensors of every layer.
   */
  advance(): void {
    this.assertUsable();
    for (const layer of this.layers) layer.length++;
  }

  /**
   * Keeps only some rows of the batch, in the given order: drops finished sequences or reorders them.
   *
   * @param batchIndices rows to keep; a row may appear more than once
   * @throws TfjsLoraError `INVALID_ARGUMENT` for no rows or a row that does not exist; `DISPOSED`
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
    this.layers.forEach(({keys, values, length}, layerIndex) => {
      this.replace(layerIndex, {keys: tf.gather(keys, rows), values: tf.gather(values, rows), length});
    });
    rows.dispose();
  }

  /**
   * Appends the rows of another cache, which does not change. The shorter one is padded on the left with zeros, so that
   * the rows' latest positions are in the same columns.
   *
   * @throws TfjsLoraError `SHAPE_MISMATCH` for a cache of another model; `DISPOSED`
   */
  join(other: KeyValueCache): void {
    this.assertUsable();
    const length = Math.max(this.length, other.length);
    const aligned = (cache: KeyValueCache, layerIndex: number, tensor: tf.Tensor4D) => {
      const used = cache.used(layerIndex, tensor);
      const missing = length - used.shape[2];
      return missing === 0
        ? used
        : tf.pad4d(used, [
            [0, 0],
            [0, 0],
            [missing, 0],
            [0, 0],
          ]);
    };
    const [{length: own}, {length: others}] = [this.layers, other.layers];
    if (own !== others) {
      throw new TfjsLoraError('SHAPE_MISMATCH', `KeyValueCache.join: expected ${own} layers, got ${others}`);
    }
    for (const [layerIndex, {keys, values}] of [...other.layers.entries()]) {
      const past = this.layers[layerIndex];
      const joined = tf.tidy(() => ({
        keys: tf.concat([aligned(this, layerIndex, past.keys), aligned(other, layerIndex, keys)]),
        values: tf.concat([aligned(this, layerIndex, past.values), aligned(other, layerIndex, values)]),
      }));
      this.replace(layerIndex, {...joined, length});
    }
  }

  /** Forgets all positions. */
  clear(): void {
    for (const {keys, values} of this.layers) tf.dispose([keys, values]);
    this.layers = [];
  }

  /** Frees every tensor held. Safe to call twice. */
  dispose(): void {
    this.clear();
    this.isDisposed = true;
  }

  /** Returns the positions of a layer's tensor that count. */
  private used(layerIndex: number, cache: tf.Tensor4D): tf.Tensor4D {
    const {length} = this.layers[layerIndex];
    return length === cache.shape[2] ? cache : tf.slice(cache, [0, 0, 0, 0], [-1, -1, length, -1]);
  }

  private replace(layerIndex: number, {keys, values, length}: CachedLayer): void {
    const past = this.layers[layerIndex];
    this.layers[layerIndex] = {keys: tf.keep(keys), values: tf.keep(values), length};
    if (past && past.keys !== keys) past.keys.dispose();
    if (past && past.values !== values) past.values.dispose();
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
