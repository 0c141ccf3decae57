import * as tf from '@tensorflow/tfjs';
import {OCTETS} from '../../layers/kernels/webgpu/device/octets.ts';
import {Llama, useBackend} from '../../src/index.ts';

type Row = Record<string, string | number>;

/** Tiles of products are whole or ragged, and heads are shared or not. */
const SHAPE = {
  vocabSize: 512,
  hiddenSize: 512,
  intermediateSize: 1440,
  numHiddenLayers: 2,
  numAttentionHeads: 8,
  numKeyValueHeads: 2,
  headDim: 64,
  tieWordEmbeddings: true,
};
const BATCH = 2;
const LENGTH = 300;

/**
 * Compares loss and gradients of a model whose blocks run in float16 as one op with those of plain float32 ops, with
 * and without checkpointing, in octets and without, for ranks that products add themselves and others. `error` is the
 * largest difference among all gradients, each divided by the largest expected magnitude of its tensor.
 */
export async function checkStack(): Promise<Row[]> {
  const rows: Row[] = [];
  const {leastRows} = OCTETS;
  const inputIds = Array.from({length: BATCH}, (_, b) =>
    Array.from({length: LENGTH}, (_, t) => (b * 97 + t * 31) % SHAPE.vocabSize),
  );
  const attentionMask = inputIds.map((ids, b) => ids.map((_, t) => Number(t < LENGTH - 50 * b)));
  const labels = inputIds.map((ids, b) => ids.map((id, t) => (attentionMask[b][t] ? id : -100)));
  for (const rank of [8, 20]) {
    const gradientsOf = async (
      computeDtype: 'float16' | 'float32',
      gradientCheckpointing: boolean,
      inOctets = false,
    ) => {
      OCTETS.leastRows = inOctets ? 0 : Number.POSITIVE_INFINITY;
      await useBackend('webgpu', {computeDtype});
      const model = Llama.fromConfig(SHAPE, {dtype: 'float16', seed: 1});
      model.applyLoRA({rank, alpha: 16, targetModules: 'all-linear', seed: 1});
      model.gradientCheckpointing = gradientCheckpointing;
      let seed = 1;
      for (const [name, parameter] of model.trainableParameters()) {
        if (!name.includes('lora_B')) continue; // zeros at first, and then A has no gradient
        const value = tf.randomNormal(parameter.shape as [number, number], 0, 0.02, 'float32', seed++);
        (tf.engine().registeredVariables[parameter.name] as tf.Variable).assign(value);
        value.dispose();
      }
      const {loss, gradients} = await model.computeGradients({inputIds, labels, attentionMask});
      const values = new Map<string, Float32Array>();
      for (const [name, gradient] of Object.entries(gradients)) {
        values.set(name, (await gradient.data()) as Float32Array);
        gradient.dispose();
      }
      model.dispose();
      return {loss, values};
    };
    const expected = await gradientsOf('float32', false);
    for (const [checkpointing, inOctets] of [
      [true, true],
      [false, true],
      [true, false],
      [false, false],
    ]) {
      const {loss, values} = await gradientsOf('float16', checkpointing, inOctets);
      const errors = [...values].map(([name, got]) =>
        errorOf(got, expected.values.get(name) as Float32Array),
      );
      rows.push({
        what: `two blocks, rank ${rank}, checkpointing ${checkpointing}${inOctets ? ', in octets' : ''}`,
        'error of the loss': Number(Math.abs(loss / expected.loss - 1).toExponential(2)),
        error: Number(Math.max(...errors.map(({largest}) => largest)).toExponential(2)),
        'in root mean square': Number(Math.max(...errors.map(({meanSquare}) => meanSquare)).toExponential(2)),
      });
    }
  }
  OCTETS.leastRows = leastRows;
  return rows;
}

function errorOf(got: Float32Array, expected: Float32Array): {largest: number; meanSquare: number} {
  let [top, largest, square, total] = [0, 0, 0, 0];
  for (const [i, value] of expected.entries()) {
    top = Math.max(top, Math.abs(value));
    largest = Math.max(largest, Math.abs(got[i] - value));
    square += (got[i] - value) ** 2;
    total += value ** 2;
  }
  return {largest: largest / top, meanSquare: Math.sqrt(square / total)};
}
