import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {countParameters} from '../../models/summary.ts';
import {Gemma2, Gemma3, Mistral, Phi3, Qwen2, Qwen3, SmolLM3} from '../../src/index.ts';

const FIXTURE = join('test', 'parity', 'families', 'fixtures', 'presets.json');
const goldens: Record<string, unknown> = JSON.parse(readFileSync(FIXTURE, 'utf8'));
const families = [Mistral, Qwen2, Qwen3, Gemma2, Gemma3, Phi3, SmolLM3];

describe("a preset's parameters, and those of an adapter of rank 8, as PEFT counts them", () => {
  beforeAll(() => tf.setBackend('cpu'));

  test.each(families.map((family) => [family.modelType, family] as const))('%s', (_, family) => {
    for (const [name, preset] of Object.entries(family.presets)) {
      const shape = family.resolveConfig(preset);
      const countsOf = (numHiddenLayers: number) => {
        const model = family.fromConfig({...preset, numHiddenLayers}, {allocate: false, dtype: 'bfloat16'});
        const total = model.countParams();
        expect(family.parameterCount(model.config as never)).toBe(total);
        const {trainable} = countParameters(model.applyLoRA({rank: 8}));
        model.dispose();
        return {total, trainable};
      };
      // All blocks have equally many, and declaring them takes seconds.
      const [one, two] = [countsOf(1), countsOf(2)];
      const counted = (key: 'total' | 'trainable') =>
        one[key] + (shape.numHiddenLayers - 1) * (two[key] - one[key]);
      expect([name, {total: counted('total'), trainable: counted('trainable')}]).toEqual([
        name,
        goldens[name],
      ]);
    }
  });
});
