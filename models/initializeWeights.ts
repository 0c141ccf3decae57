import * as tf from '@tensorflow/tfjs';
import {hashName} from '../layers/hashName.ts';
import {namedParameters, walk} from '../layers/moduleLayer.ts';
import {RMSNorm} from '../layers/rmsNorm.ts';

/**
 * Fills declared weights as transformers does for a new Llama: matrices normal(0, range), biases zero, norms one
 * with their offset.
 * Each weight has its own seed, so the result does not depend on the order of layers.
 */
export function initializeWeights(layers: tf.layers.Layer[], range: number, seed: number): void {
  const offsets = new Map(
    walk(layers).map((layer) => [layer.name, layer instanceof RMSNorm ? layer.offset : 0]),
  );
  for (const [name, parameter] of namedParameters(layers)) {
    const {logicalShape: shape} = parameter;
    const value = tf.tidy(() => {
      const offset = offsets.get(name.slice(0, name.lastIndexOf('.'))) ?? 0;
      if (shape.length === 1) return name.endsWith('.bias') ? tf.zeros(shape) : tf.fill(shape, 1 - offset);
      const [rows, cols] = shape;
      const matrix = tf.randomNormal([rows, cols], 0, range, 'float32', seed + hashName(name)) as tf.Tensor2D;
      return parameter.stored(matrix);
    });
    parameter.write(value);
    value.dispose();
  }
}
