import {
  argMax,
  assertFiniteLogits,
  createRandomSource,
  sampleCategorical,
} from '../../../models/generation/sampler.ts';

test('argMax returns the first among equals', () => {
  expect(argMax(Float32Array.of(1, 3, -1, 3))).toBe(1);
  expect(argMax(Float32Array.of(-Infinity, -Infinity, -9))).toBe(2);
  expect(argMax(Float32Array.of(5))).toBe(0);
});

test('draws follow the softmax of the logits', () => {
  const scores = Float32Array.of(0, Math.log(2), -Infinity, Math.log(5), -60);
  const random = createRandomSource(1);
  const counts = [0, 0, 0, 0, 0];
  const draws = 8000;
  for (let i = 0; i < draws; i++) counts[sampleCategorical(scores, random)]++;
  expect(counts[2] + counts[4]).toBe(0);
  // Chi-square with 2 degrees of freedom exceeds 13.8 for one seed in a thousand.
  const chiSquare = [
    [0, 1 / 8],
    [1, 2 / 8],
    [3, 5 / 8],
  ].reduce((sum, [i, share]) => sum + (counts[i] - share * draws) ** 2 / (share * draws), 0);
  expect(chiSquare).toBeLessThan(13.8);
});

test('draws the first and the last possible token at the ends of the range', () => {
  const scores = Float32Array.of(-Infinity, 2, 1, -Infinity);
  expect(sampleCategorical(scores, () => 0)).toBe(1);
  expect(sampleCategorical(scores, () => 1 - 2 ** -53)).toBe(2);
});

test('does not overflow with large logits', () => {
  expect(sampleCategorical(Float32Array.of(3e38, -3e38), () => 0.999)).toBe(0);
  expect(sampleCategorical(Float32Array.of(-Infinity, 1, Infinity), () => 0)).toBe(2);
});

test('gives the same numbers for the same seed, and different ones for other rows and seeds', () => {
  const take = (seed: number | string | undefined, row?: number) => {
    const random = createRandomSource(seed, row);
    return [random(), random(), random()];
  };
  expect(take(5)).toEqual(take(5));
  expect(take(5)).toEqual(take('5', 0));
  expect(take(5)).not.toEqual(take(5, 1));
  expect(take(5)).not.toEqual(take(6));
  expect(take(undefined)).not.toEqual(take(undefined));
  for (const x of take(5)) expect(x >= 0 && x < 1).toBe(true);
});

test.each([Number.NaN, Infinity, -Infinity])('refuses logits with %d', (bad) => {
  assertFiniteLogits(Float32Array.of(0, 1e30), 2);
  expect(() => assertFiniteLogits(Float32Array.of(0, bad), 2)).toThrow(
    expect.objectContaining({
      code: 'NON_FINITE',
      message: expect.stringContaining(`logits of sequence 2, token 1: expected a finite number, got ${bad}`),
    }),
  );
});
