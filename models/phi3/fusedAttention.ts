import * as tf from '@tensorflow/tfjs';
import {GroupedQueryAttention, type ProjectionOptions} from '../../layers/groupedQueryAttention.ts';
import type {LoRADense} from '../../layers/loraDense.ts';
import type {TransposedDense} from '../../layers/transposedDense.ts';

/** {@link GroupedQueryAttention} with one projection to queries, keys and values: `qkv_proj`. */
export class FusedAttention extends GroupedQueryAttention {
  static override className = 'FusedAttention';
  qkv_proj!: TransposedDense | LoRADense;

  protected override buildInputs(size: number, headDim: number): void {
    this.qkv_proj = this.project('qkv_proj', size, (this.heads + 2 * this.keyValueHeads) * headDim);
  }

  protected override projectInputs(
    x: tf.Tensor2D,
    options: ProjectionOptions,
  ): [tf.Tensor2D, tf.Tensor2D, tf.Tensor2D] {
    const [queries, keys] = [this.heads, this.keyValueHeads].map((count) => count * (this.headDim as number));
    const all = this.qkv_proj.apply(x, options) as tf.Tensor2D; // [N, (H + 2K)·D]
    return tf.split(all, [queries, keys, keys], 1) as [tf.Tensor2D, tf.Tensor2D, tf.Tensor2D];
  }
}
tf.serialization.registerClass(FusedAttention);
