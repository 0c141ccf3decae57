import * as tf from '@tensorflow/tfjs';
import {Adapter} from './adapter.ts';
import {embedding} from './ops/embedding.ts';
import type {DenseMatrix} from './ops/storedMatrix.ts';
import {Parameter, withoutAllocation} from './parameter.ts';

/** The trained rows of some tokens, which replace those of a table `[vocabSize, C]`: PEFT's `trainable_token_indices`. */
export class TokenRows extends Adapter {
  /**
   * @param indices the tokens, each once
   * @param rows their rows, `[indices.length, C]` float32
   * @param source the adapter of another layer that owns the rows of a tied head
   */
  constructor(
    name: string,
    readonly indices: readonly number[],
    readonly rows: Parameter,
    readonly source?: TokenRows,
  ) {
    super(name);
  }

  /** Starts with a table's own rows. */
  static of(name: string, where: string, indices: readonly number[], table: Parameter): TokenRows {
    const shape = [indices.length, table.logicalShape[1]];
    const initialize = () => {
      const ids = tf.tensor1d([...indices], 'int32');
      return tf.mul(embedding(ids, table.matrix() as DenseMatrix), 1); // in memory of its own: optimizers write in place
    };
    const create = () => new Parameter({name: `${where}.trainable_tokens_delta.${name}`, shape, initialize});
    return new TokenRows(name, indices, table.isAllocated ? create() : withoutAllocation(create));
  }

  /** Returns the same rows for a head that is tied to the table. */
  tied(): TokenRows {
    return new TokenRows(this.name, this.indices, this.rows, this);
  }

  override get parameters(): Map<string, Parameter> {
    return this.source ? new Map() : new Map([['token_adapter.trainable_tokens_delta', this.rows]]);
  }

  override get sources(): Parameter[] {
    return [this.rows];
  }

  override placedKey(key: string): string {
    return `${key}.${this.name}`;
  }

  /** Returns for each token of the vocabulary the place of its row, and 1 if it has one, otherwise 0 and 0. */
  places(vocabSize: number): {places: tf.Tensor1D; has: tf.Tensor1D} {
    const [places, has] = [new Int32Array(vocabSize), new Float32Array(vocabSize)];
    for (const [place, index] of this.indices.entries()) {
      places[index] = place;
      has[index] = 1;
    }
    return {places: tf.tensor1d(places, 'int32'), has: tf.tensor1d(has)};
  }
}
