import * as tf from '@tensorflow/tfjs';
import {RotaryEmbedding, type RotaryTables} from '../../layers/rotaryEmbedding.ts';

/**
 * Several rotary embeddings whose tables are side by side in one, so that a pass has one pair of tables for all layers:
 * `[B or 1, 1, T, parts · headDim/2]`.
 */
export class JointRotary extends RotaryEmbedding {
  static override className = 'JointRotary';
  readonly #parts: RotaryEmbedding[]; // private, so that they do not count as sub-layers

  /** @param parts two embeddings for heads of the same size */
  constructor(name: string, parts: RotaryEmbedding[]) {
    super({name, headDim: parts.length * parts[0].headDim});
    this.#parts = parts;
  }

  override get dependsOnLength(): boolean {
    return this.#parts.some((part) => part.dependsOnLength);
  }

  override valuesAt(positions: ArrayLike<number>[]): ReturnType<RotaryEmbedding['valuesAt']> {
    const all = this.#parts.map((part) => part.valuesAt(positions));
    const width = this.#parts[0].headDim / 2;
    const joined = (name: 'cos' | 'sin') => {
      const values = new Float32Array(all.length * all[0][name].length);
      for (const [part, {[name]: own}] of all.entries()) {
        for (let row = 0; row * width < own.length; row++)
          values.set(own.subarray(row * width, (row + 1) * width), (row * all.length + part) * width);
      }
      return values;
    };
    return {cos: joined('cos'), sin: joined('sin')};
  }

  /** Returns one of two embeddings' tables. */
  static partOf({cos, sin}: RotaryTables, part: 0 | 1): RotaryTables {
    const width = cos.shape[3] / 2;
    const own = (table: tf.Tensor4D) => tf.slice(table, [0, 0, 0, part * width], [-1, -1, -1, width]);
    return {cos: own(cos), sin: own(sin)};
  }
}
