import * as tf from '@tensorflow/tfjs';
import {geGLU} from './ops/geGLU.ts';
import {SwiGLU} from './swiGLU.ts';

/** Gemma's feed-forward: {@link SwiGLU} with a GELU gate, `down_proj(gelu(gate_proj(x)) · up_proj(x))`. */
export class GeGLU extends SwiGLU {
  static override className = 'GeGLU';

  protected override activate(gate: tf.Tensor, up: tf.Tensor): tf.Tensor {
    return geGLU(gate, up);
  }
}
tf.serialization.registerClass(GeGLU);
