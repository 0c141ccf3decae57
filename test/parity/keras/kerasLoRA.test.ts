import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {LoRADense} from '../../../layers/loraDense.ts';
import {loadAdapter, saveAdapter} from '../../../models/keras/adapterFolders.ts';
import {mergeLoRA} from '../../../models/keras/mergeLoRA.ts';
import {AdamW} from '../../../src/training/optimizers/adamW.ts';
import {describeEachBackend} from '../../describeEachBackend.ts';
import {inFolder} from '../../models/tinyLlama.ts';
import {
  expectClose,
  expectRelative,
  expectSameGradients,
  goldenNamed,
  readGoldens,
  relativeNorm,
  toTensor,
} from '../golden.ts';
import {KERAS_FIXTURES, kerasNetwork} from './kerasNetwork.ts';

const expected = readGoldens(join(KERAS_FIXTURES, 'expected.safetensors'));
const manifest = JSON.parse(readFileSync(join(KERAS_FIXTURES, 'manifest.json'), 'utf8'));
const [LOGITS, GRADIENT, LOSS, WEIGHT] = [1e-5, 1e-5, 1e-5, 1e-4];

const adapterOf = (folder: string) => readGoldens(join(folder, 'adapter_model.safetensors'));

const crossEntropy = (labels: tf.Tensor, logits: tf.Tensor) => tf.losses.softmaxCrossEntropy(labels, logits);

/** The trained variables by their key in a PEFT file. */
function trained(model: tf.LayersModel): [key: string, variable: tf.Variable][] {
  return model.layers.flatMap((layer) => {
    const parameters = layer instanceof LoRADense ? [...layer.adapter().parameters] : [];
    return parameters.map(([key, parameter]): [string, tf.Variable] => [
      `base_model.model.${layer.name}.${key}`,
      parameter.read(),
    ]);
  });
}

async function expectLogits(model: tf.LayersModel, x: tf.Tensor, name: string): Promise<void> {
  const logits = model.predict(x) as tf.Tensor;
  await expectClose(logits, goldenNamed(expected, name), LOGITS);
  logits.dispose();
}

describeEachBackend("applyLoRA on a Keras model equals PEFT on PyTorch's", () => {
  test('logits, merged logits, gradients, ten steps of AdamW, and the adapter in both directions', async () => {
    const before = tf.memory().numTensors;
    const [x, y] = ['x', 'y'].map((name) => toTensor(goldenNamed(expected, name)));
    const network = kerasNetwork();
    const model = await loadAdapter(network, join(KERAS_FIXTURES, 'initial'), {trainable: true});
    await expectLogits(model, x, 'logits');
    const merged = mergeLoRA(model);
    await expectLogits(merged, x, 'logits');

    const variables = trained(model);
    const {value, grads} = tf.variableGrads(
      () => tf.tidy(() => crossEntropy(y, model.apply(x, {training: true}) as tf.Tensor) as tf.Scalar),
      variables.map(([, variable]) => variable),
    );
    const gradients = Object.fromEntries(variables.map(([key, {name}]) => [key, grads[name]]));
    await expectSameGradients(gradients, expected, GRADIENT);

    const {lr, betas, eps, weight_decay: weightDecay} = manifest.optimizer;
    const optimizer = new AdamW({
      learningRate: lr,
      beta1: betas[0],
      beta2: betas[1],
      epsilon: eps,
      weightDecay,
    });
    model.compile({optimizer, loss: crossEntropy});
    const epochs = manifest.losses.length;
    const {history} = await model.fit(x, y, {epochs, batchSize: x.shape[0], shuffle: false, verbose: 0});
    for (const [step, loss] of manifest.losses.entries())
      expectRelative(history.loss[step] as number, loss, LOSS);
    await expectLogits(model, x, 'finalLogits');

    await inFolder(async (folder) => {
      await saveAdapter(model, folder);
      const [saved, final] = [adapterOf(folder), adapterOf(join(KERAS_FIXTURES, 'final'))];
      expect([...saved.keys()].sort()).toEqual([...final.keys()].sort());
      for (const [key, {shape, values}] of final) {
        expect(saved.get(key)!.shape).toEqual(shape);
        expect(relativeNorm(saved.get(key)!.values, values)).toBeLessThan(WEIGHT);
      }
      const again = await loadAdapter(network, folder);
      await expectLogits(again, x, 'finalLogits');
      again.dispose();
    });

    optimizer.dispose();
    tf.dispose([x, y, value, Object.values(grads)]);
    for (const each of [merged, model, network]) each.dispose();
    expect(tf.memory().numTensors).toBe(before);
  });
});
