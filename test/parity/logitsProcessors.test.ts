import {processLogits} from '../../models/generation/logitsProcessors.ts';
import {defaultGenerationConfig, type ResolvedGenerationConfig} from '../../models/generationConfig.ts';
import {readJson} from './golden.ts';

interface LogitsProcessorGoldens {
  inputIds: number[][];
  logits: number[][];
  /** `null` stands for −∞. */
  runs: {options: Partial<ResolvedGenerationConfig>; scores: (number | null)[][]}[];
}

describe('logits processors equal transformers', () => {
  const {inputIds, logits, runs} = readJson<LogitsProcessorGoldens>('ops/logitsProcessors.json');
  const everything: ResolvedGenerationConfig = {
    ...defaultGenerationConfig,
    doSample: true,
    topK: 0,
    stopStrings: [],
    eosTokenIds: [],
  };

  test.each(runs.map(({options, scores}) => ({name: JSON.stringify(options), options, scores})))(
    '$name',
    ({options, scores}) => {
      for (const [row, expected] of scores.entries()) {
        const actual = Float32Array.from(logits[row]);
        processLogits(actual, {ids: inputIds[row], newTokens: 0}, {...everything, ...options});
        const kept = [...actual].map((score) => Number.isFinite(score));
        expect(kept).toEqual(expected.map((score) => score !== null));
        for (const [i, score] of expected.entries()) {
          if (score !== null) expect(Math.abs(actual[i] - score)).toBeLessThanOrEqual(1e-6 * Math.abs(score));
        }
      }
    },
  );
});
