import * as tf from '@tensorflow/tfjs';
import {ropeFrequencies} from '../../layers/ropeFrequencies.ts';
import {RotaryEmbedding} from '../../layers/rotaryEmbedding.ts';
import {parseRope} from '../../models/llama/ropeConfig.ts';
import {describeEachBackend} from '../describeEachBackend.ts';
import {expectClose, goldenNamed, readGoldens, readJson, toTensor} from './golden.ts';

interface GoldenRotary {
  headDim: number;
  positions: number[];
  ropeParameters: Record<string, number>;
}

/** The frequencies of a config for sequences of each length, and the factor on the tables. */
interface GoldenRope {
  config: Record<string, unknown> & {max_position_embeddings: number};
  lengths: number[];
  frequencies: number[][];
  factor: number;
}

const goldens = readGoldens('ops/ops.safetensors');
const attributes = readJson<{
  rotary: Record<string, GoldenRotary>;
  rotaryEmbedding: {headDim: number; positionIds: number[][]; ropeParameters: Record<string, number>};
}>('ops/ops.json');

function layerOf({
  headDim,
  ropeParameters,
}: {
  headDim: number;
  ropeParameters: Record<string, number>;
}): RotaryEmbedding {
  return new RotaryEmbedding({
    headDim,
    theta: ropeParameters.rope_theta,
    scaling: {
      type: 'llama3',
      factor: ropeParameters.factor,
      lowFreqFactor: ropeParameters.low_freq_factor,
      highFreqFactor: ropeParameters.high_freq_factor,
      originalMaxPositionEmbeddings: ropeParameters.original_max_position_embeddings,
    },
  });
}

/** The peer repeats the table for both halves of a head; ours has one half. */
const firstHalf = (name: string) => {
  const {values, shape} = goldenNamed(goldens, name);
  const [length, headDim] = shape;
  const half = headDim / 2;
  return {shape: [1, 1, length, half], values: values.filter((_, i) => i % headDim < half)};
};

describe('ropeFrequencies equals transformers', () => {
  const goldens = readJson<Record<string, GoldenRope>>('../families/fixtures/rope.json');
  test.each(Object.entries(goldens))('%s', (_, {config, lengths, frequencies, factor}) => {
    const {theta, scaling} = parseRope(config, config.max_position_embeddings, 'config.json');
    expect((scaling && 'attentionFactor' in scaling && scaling.attentionFactor) || 1).toBeCloseTo(factor, 12);
    for (const [i, length] of lengths.entries()) {
      const got = ropeFrequencies(16, theta as number, scaling, length);
      expect(got).toHaveLength(frequencies[i].length);
      for (const [j, expected] of frequencies[i].entries()) {
        expect(Math.abs(got[j] / expected - 1)).toBeLessThan(1e-6);
      }
    }
  });
});

describeEachBackend('RotaryEmbedding equals transformers', () => {
  test.each(Object.keys(attributes.rotary))(
    '%s: frequencies, and tables up to position 131071',
    async (name) => {
      const golden = attributes.rotary[name];
      const layer = layerOf(golden);
      const expected = goldenNamed(goldens, `rotary/${name}/inverseFrequencies`).values;
      layer.inverseFrequencies.forEach((frequency, i) => {
        expect(Math.abs(frequency / expected[i] - 1)).toBeLessThan(4e-7); // powers differ in their last bit
      });
      const {cos, sin} = layer.tablesAt([golden.positions]);
      // In float32, an angle of 131071 radians is accurate to ±0.008, and positions below 2000 to 1e-4.
      const near = golden.positions.map((position) => (position < 2000 ? 1 : 0));
      await expectClose(cos, firstHalf(`rotary/${name}/cos`), 1e-4, near);
      await expectClose(sin, firstHalf(`rotary/${name}/sin`), 1e-4, near);
      await expectClose(cos, firstHalf(`rotary/${name}/cos`), 0.02);
      await expectClose(sin, firstHalf(`rotary/${name}/sin`), 0.02);
      tf.dispose([cos, sin]);
    },
  );

  test('rotates query and key at given positions', async () => {
    const golden = attributes.rotaryEmbedding;
    const layer = layerOf(golden);
    const tables = layer.tablesAt(golden.positionIds);
    for (const [input, output] of [
      ['query', 'y'],
      ['key', 'rotatedKey'],
    ]) {
      const x = toTensor(goldenNamed(goldens, `rotaryEmbedding/${input}`));
      const y = layer.apply(x, {...tables}) as tf.Tensor;
      await expectClose(y, goldenNamed(goldens, `rotaryEmbedding/${output}`), 5e-6);
      tf.dispose([x, y]);
    }
    tf.dispose([tables.cos, tables.sin]);
  });
});
