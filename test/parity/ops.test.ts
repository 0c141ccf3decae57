import * as tf from '@tensorflow/tfjs';
import {attention} from '../../layers/ops/attention.ts';
import {causalBias} from '../../layers/ops/causalBias.ts';
import {crossEntropy} from '../../layers/ops/crossEntropy.ts';
import {linear} from '../../layers/ops/linear.ts';
import {linearCrossEntropy} from '../../layers/ops/linearCrossEntropy.ts';
import {loraLinear} from '../../layers/ops/loraLinear.ts';
import {rmsNorm} from '../../layers/ops/rmsNorm.ts';
import {rotaryEmbedding} from '../../layers/ops/rotaryEmbedding.ts';
import {swiGLU} from '../../layers/ops/swiGLU.ts';
import {describeEachBackend, expectNoLeak} from '../describeEachBackend.ts';
import {expectClose, type Golden, goldenNamed, readGoldens, readJson, toTensor} from './golden.ts';

const goldens = readGoldens('ops/ops.safetensors');
// biome-ignore lint/suspicious/noExplicitAny: each operation has its own attributes
const attributes = readJson<Record<string, any>>('ops/ops.json');
const golden = (name: string): Golden => goldenNamed(goldens, name);
const stored = (name: string): tf.Tensor => toTensor(golden(name));

/** Tolerance for two float32 programs that sum in different orders. */
const TOLERANCE = 2e-6;

/** Compares the value of `op`, and the gradient of every one of its inputs for the stored `dy`. */
async function expectParity(
  name: string,
  inputNames: string[],
  // biome-ignore lint/suspicious/noExplicitAny: the operation decides the rank
  op: (...inputs: any[]) => tf.Tensor,
): Promise<void> {
  const inputs = inputNames.map((input) => stored(`${name}/${input}`));
  const dy = stored(`${name}/dy`);
  const value = op(...inputs);
  await expectClose(value, golden(`${name}/y`), TOLERANCE);
  const gradients = tf.grads(op)(inputs, dy);
  for (const [i, input] of inputNames.entries()) {
    await expectClose(gradients[i], golden(`${name}/d_${input}`), TOLERANCE);
  }
  expectNoLeak(() => tf.grads(op)(inputs, dy));
  tf.dispose([value, gradients, inputs, dy]);
}

/** The ops take rows; the golden inputs are `[B, T, C]`. */
const rows = (x: tf.Tensor): tf.Tensor2D => x.reshape([-1, x.shape.at(-1) as number]);
const matrix = (tensor: tf.Tensor) => {
  const [rowCount, cols] = tensor.shape;
  return {tensor, dtype: 'float32' as const, rows: rowCount, cols};
};

describeEachBackend('ops equal PyTorch', () => {
  test('rmsNorm', () =>
    expectParity('rmsNorm', ['x', 'weight'], (x, weight) =>
      rmsNorm(x, weight, attributes['rmsNorm'].epsilon),
    ));

  test('swiGLU', () => expectParity('swiGLU', ['gate', 'up'], swiGLU));

  test('attention with grouped queries and left padding', async () => {
    const {attentionMask, scale} = attributes['attention'];
    const mask = tf.tensor2d(attentionMask as number[][], undefined, 'int32');
    const bias = causalBias(7, 7, mask);
    const real = mask.toFloat().reshape([2, 1, 7, 1]);
    await expectParity('attention', ['query', 'key', 'value'], (query, key, value) =>
      tf.tidy(() => attention(query, key, value, {bias, scale}).mul(real)),
    );
    tf.dispose([mask, bias, real] as tf.Tensor[]);
  });

  test('attention equals scaled_dot_product_attention', async () => {
    const bias = causalBias(9, 9);
    await expectParity('attentionCausal', ['query', 'key', 'value'], (query, key, value) =>
      attention(query, key, value, {bias}),
    );
    bias?.dispose();
  });

  test('rotaryEmbedding', async () => {
    const {positionIds} = attributes['rotaryEmbedding'];
    const angles = tf.tidy(() => {
      const positions = tf.tensor2d(positionIds as number[][]).reshape([2, 1, 5, 1]);
      const angle = positions.mul(stored('rotaryEmbedding/inverseFrequencies')) as tf.Tensor4D;
      return [tf.cos(angle), tf.sin(angle)] as [tf.Tensor4D, tf.Tensor4D];
    });
    await expectParity('rotaryEmbedding', ['query'], (query) => rotaryEmbedding(query, ...angles));
    const key = stored('rotaryEmbedding/key') as tf.Tensor4D;
    const rotated = rotaryEmbedding(key, ...angles);
    await expectClose(rotated, golden('rotaryEmbedding/rotatedKey'), TOLERANCE);
    tf.dispose([key, rotated, ...angles]);
  });

  test('crossEntropy ignores −100 and is a sum', async () => {
    // The golden is shifted as the model shifts: position t predicts label t + 1.
    const labels = tf.tensor1d(shiftedLabels(attributes['crossEntropy'].labels), 'int32');
    await expectParity('crossEntropy', ['logits'], (logits) =>
      tf.tidy(() => crossEntropy(rows(tf.slice(logits, [0, 0, 0], [-1, 5, -1])), labels)),
    );
    labels.dispose();
  });

  test('linearCrossEntropy', async () => {
    const labels = tf.tensor1d(shiftedLabels(attributes['linearCrossEntropy'].labels), 'int32');
    const weight = stored('linearCrossEntropy/weight');
    await expectParity('linearCrossEntropy', ['hidden'], (hidden) =>
      tf.tidy(() =>
        linearCrossEntropy(rows(tf.slice(hidden, [0, 0, 0], [-1, 5, -1])), matrix(weight), labels),
      ),
    );
    tf.dispose([labels, weight]);
  });

  test('linear and loraLinear', async () => {
    const weight = stored('loraLinear/weight');
    const bias = stored('loraLinear/bias');
    const {scaling} = attributes['loraLinear'];
    await expectParity('loraLinear', ['x', 'loraA', 'loraB'], (x, a, b) =>
      tf.tidy(() => {
        const base = tf.add(linear(rows(x), matrix(weight)), bias) as tf.Tensor2D;
        return loraLinear(base, rows(x), a, b, scaling).reshape([2, 3, 9]);
      }),
    );
    tf.dispose([weight, bias]);
  });
});

function shiftedLabels(labels: number[][]): number[] {
  return labels.flatMap((row) => row.slice(1));
}
