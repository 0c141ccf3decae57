import * as tf from '@tensorflow/tfjs';
import type {LoRACallArgs, LoRADense} from '../../layers/loraDense.ts';
import {SwiGLU} from '../../layers/swiGLU.ts';
import type {TransposedDense} from '../../layers/transposedDense.ts';

/** {@link SwiGLU} with one projection to the gate and to what it scales: `gate_up_proj`. */
export class FusedSwiGLU extends SwiGLU {
  static override className = 'FusedSwiGLU';
  gate_up_proj!: TransposedDense | LoRADense;

  protected override buildInputs(size: number): void {
    this.gate_up_proj = this.project('gate_up_proj', size, this.widest);
  }

  protected override get widest(): number {
    return 2 * this.intermediateSize;
  }

  protected override projectInputs(x: tf.Tensor2D, options: LoRACallArgs): [tf.Tensor, tf.Tensor] {
    return tf.split(this.gate_up_proj.apply(x, options) as tf.Tensor, 2, 1) as [tf.Tensor, tf.Tensor];
  }
}
tf.serialization.registerClass(FusedSwiGLU);
