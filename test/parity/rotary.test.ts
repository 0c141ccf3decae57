import * as tf from '@tensorflow/tfjs';
import {RotaryEmbedding} from '../../layers/rotaryEmbedding.ts';
import {describeEachBackend} from '../describeEachBackend.ts';
import {expectClose, goldenNamed, readGoldens, readJson, toTensor} from './golden.ts';

interface GoldenRotary {
  headDim: number;
  positions: number[];
  ropeParameters: Record<string, number>;
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
