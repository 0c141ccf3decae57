import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import fc from 'fast-check';
import {keepMinP, keepTopK, keepTopP, processLogits} from '../../../models/generation/logitsProcessors.ts';
import {type GenerationConfig, resolveGenerationConfig} from '../../../models/generationConfig.ts';

interface Golden {
  row: string;
  settings: GenerationConfig;
  ids: number[];
  newTokens: number;
  scores: number[];
  /** Null stands for an excluded token. */
  processed: (number | null)[];
}

const goldens: Golden[] = JSON.parse(readFileSync(join(__dirname, 'fixtures/logits.json'), 'utf8'));

test.each(
  goldens.map((golden) => ({...golden, name: `${golden.row} logits, ${JSON.stringify(golden.settings)}`})),
)('equals transformers: $name', ({row, settings, ids, newTokens, scores, processed}) => {
  const actual = Float32Array.from(scores);
  processLogits(actual, {ids, newTokens}, resolveGenerationConfig({}, settings));
  const expected = Float32Array.from(processed, (score) => score ?? -Infinity);
  // In transformers an unstable sort decides which of several equals top-p drops, but not how many.
  if (settings.topP !== undefined && (row === 'ties' || row === 'flat')) {
    actual.sort();
    expected.sort();
  }
  expect(actual).toEqual(expected);
});

describe('tokens that stay', () => {
  const logits = fc
    .array(fc.integer({min: -20, max: 20}), {minLength: 1, maxLength: 30})
    .map((scores) => Float32Array.from(scores, (score) => score / 4));
  const keptBy = (scores: Float32Array, step: (row: Float32Array) => void): number[] => {
    const row = scores.slice();
    step(row);
    for (const [i, score] of row.entries()) expect([scores[i], -Infinity]).toContain(score);
    return [...row.keys()].filter((i) => row[i] > -Infinity);
  };

  test('top-p: the fewest tokens that reach p, likeliest first', () => {
    fc.assert(
      fc.property(logits, fc.double({min: 0.01, max: 0.99, noNaN: true}), (scores, p) => {
        const kept = keptBy(scores, (row) => keepTopP(row, p));
        const weights = Array.from(scores, (score) => Math.exp(score));
        const total = weights.reduce((a, b) => a + b);
        const sum = kept.reduce((a, i) => a + weights[i], 0) / total;
        const smallest = Math.min(...kept.map((i) => weights[i])) / total;
        expect(sum).toBeGreaterThan(p - 1e-6);
        expect(sum - smallest).toBeLessThan(p + 1e-6);
        const dropped = [...scores].filter((_, i) => !kept.includes(i));
        for (const score of dropped) expect(Math.exp(score) / total).toBeLessThanOrEqual(smallest);
      }),
    );
  });

  test('top-p: of equals, the lower ids', () => {
    expect(keptBy(Float32Array.of(1, 0, 1, 0, 0), (row) => keepTopP(row, 0.7))).toEqual([0, 1, 2]);
  });

  test('top-k: the k largest and their equals', () => {
    fc.assert(
      fc.property(logits, fc.integer({min: 1, max: 40}), (scores, k) => {
        const kept = keptBy(scores, (row) => keepTopK(row, k));
        const larger = (i: number) => scores.filter((score) => score > scores[i]).length;
        expect(kept).toEqual([...scores.keys()].filter((i) => larger(i) < k));
      }),
    );
  });

  test('min-p always keeps the likeliest', () => {
    expect(keptBy(Float32Array.of(0, -50, -0.5, -Infinity), (row) => keepMinP(row, 1))).toEqual([0]);
    expect(keptBy(Float32Array.of(0, -50, -0.5, -Infinity), (row) => keepMinP(row, 0.6))).toEqual([0, 2]);
  });
});
