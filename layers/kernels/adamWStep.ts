import type {AdamWSettings} from '../ops/adamWUpdate.ts';

/** Value, gradient, mean and variance, in the order the op takes them. */
type Sources = [value: Float32Array, gradient: Float32Array, mean: Float32Array, variance: Float32Array];
type Targets = [value: Float32Array, mean: Float32Array, variance: Float32Array];

/** `AdamWUpdate` (layers/ops/adamWUpdate.ts) over arrays of one length, in one pass. */
export function adamWStep(
  [value, gradient, mean, variance]: Sources,
  [nextValue, nextMean, nextVariance]: Targets,
  {learningRate, beta1, beta2, epsilon, weightDecay, step}: AdamWSettings,
): void {
  const keep = 1 - learningRate * weightDecay;
  const stepSize = learningRate / (1 - beta1 ** step);
  const correction = Math.sqrt(1 - beta2 ** step);
  for (let i = 0; i < value.length; i++) {
    const m = beta1 * mean[i] + (1 - beta1) * gradient[i];
    const v = beta2 * variance[i] + (1 - beta2) * gradient[i] * gradient[i];
    nextMean[i] = m;
    nextVariance[i] = v;
    nextValue[i] = keep * value[i] - (stepSize * m) / (Math.sqrt(v) / correction + epsilon);
  }
}
