import * as tf from '@tensorflow/tfjs';

/**
 * Draws NEFTune's noise for embeddings `[B, T, C]`: uniform in ± alpha / √(T·C), as in transformers. Jain et al. 2023.
 *
 * @param seed makes it repeatable. Default: another noise each time
 */
export function embeddingNoise(shape: [number, number, number], alpha: number, seed?: number): tf.Tensor3D {
  const [, length, width] = shape;
  const largest = alpha / Math.sqrt(length * width);
  return tf.randomUniform(shape, -largest, largest, 'float32', seed);
}
