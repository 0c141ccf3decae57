import * as tf from '@tensorflow/tfjs';
import {hashName} from '../layers/hashName.ts';
import {namedParameters} from '../layers/moduleLayer.ts';

/**
 * Fills declared weights as transformers does for a new Llama: matrices normal(0, range), biases zero, norms one.
 * Each weight has its own seed, so the result does not depend on the order of layers.
 */
export function initializeWeights(layers: tf.layers.Layer[], range: number, seed: number): void {
  for (const [name, parameter] of namedParameters(layers)) {
    const {logicalShape: shape} = parameter;
    const value = tf.tidy(() => {
      if (shape.length === 1) return name.endsWith('.bias') ? tf.zeros(shape) : tf.ones(shape);
      const [rows, cols] = shape;
      const matrix = tf.randomNormal([rows, cols], 0, range, 'float32', seed + hashName(name)) as tf.Tensor2D;
      return parameter.stored(matrix);
    });
    parameter.write(value);
    value.dispose();
  }
}
