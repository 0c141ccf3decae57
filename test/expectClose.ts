import * as tf from '@tensorflow/tfjs';

/**
 * Expects two arrays or tensors of the same shape to agree: the largest difference over the largest expected magnitude
 * (or 1, if that is less) is at most `relative`. NaN agrees with NaN only. The message gives the largest error and its
 * place.
 *
 * @param relative largest relative error. Default 1e-5
 */
export function expectClose(
  actual: tf.Tensor | ArrayLike<number>,
  expected: tf.Tensor | ArrayLike<number>,
  {relative = 1e-5}: {relative?: number} = {},
): void {
  if (actual instanceof tf.Tensor && expected instanceof tf.Tensor)
    expect(actual.shape).toEqual(expected.shape);
  const got = valuesOf(actual);
  const want = valuesOf(expected);
  expect(got.length).toBe(want.length);
  const finite = Array.from(want).filter(Number.isFinite);
  const scale = Math.max(
    1,
    finite.reduce((largest, value) => Math.max(largest, Math.abs(value)), 0),
  );
  let worst = {error: 0, index: -1};
  for (let i = 0; i < want.length; i++) {
    if (Object.is(got[i], want[i]) || got[i] === want[i]) continue;
    const difference = Math.abs(got[i] - want[i]) / scale;
    const error = Number.isNaN(difference) ? Number.POSITIVE_INFINITY : difference;
    if (error > worst.error) worst = {error, index: i};
  }
  if (worst.error > relative) {
    const {index, error} = worst;
    throw new Error(
      `expected agreement to ${relative}, got a relative error of ${error} at element ${index}: ` +
        `${got[index]} instead of ${want[index]}`,
    );
  }
}

function valuesOf(values: tf.Tensor | ArrayLike<number>): ArrayLike<number> {
  return values instanceof tf.Tensor ? values.dataSync() : values;
}
