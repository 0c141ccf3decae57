import * as tf from '@tensorflow/tfjs';
import {LoRADense} from '../../layers/loraDense.ts';
import {TransposedDense} from '../../layers/transposedDense.ts';
import {describeEachBackend} from '../describeEachBackend.ts';
import {expectClose, goldenNamed, readGoldens, readJson, toTensor} from './golden.ts';

const goldens = readGoldens('ops/ops.safetensors');
const attributes = readJson<Record<string, {scaling: number}>>('ops/ops.json');
const TOLERANCE = 2e-6;

/** Makes the golden layer `name`: rank 4, and an alpha that gives the golden scale. */
function goldenLayer(name: string): LoRADense {
  const write = (key: string, parameter?: tf.LayerVariable) => {
    const value = toTensor(goldenNamed(goldens, `${name}/${key}`));
    parameter?.write(value);
    value.dispose();
  };
  const base = new TransposedDense({units: 9, name});
  base.build([null, 10]);
  write('weight', base.weight);
  write('bias', base.bias);
  const useDoRA = goldens.has(`${name}/magnitude`);
  const layer = LoRADense.fromDense(base, {rank: 4, alpha: 4 * attributes[name].scaling, useDoRA});
  write('loraA', layer.loraA);
  write('loraB', layer.loraB);
  if (useDoRA) write('magnitude', layer.adapter().magnitude);
  return layer;
}

describeEachBackend('LoRADense equals PEFT', () => {
  test.each(['loraLinear', 'doraLinear'])('%s: output, every gradient, merged output', async (name) => {
    const tensorsBefore = tf.memory().numTensors;
    const layer = goldenLayer(name);
    const x = toTensor(goldenNamed(goldens, `${name}/x`));
    const dy = toTensor(goldenNamed(goldens, `${name}/dy`));
    const expected = goldenNamed(goldens, `${name}/y`);

    const y = layer.apply(x) as tf.Tensor;
    await expectClose(y, expected, TOLERANCE);

    const trained = Object.entries({
      d_loraA: layer.loraA,
      d_loraB: layer.loraB,
      d_magnitude: layer.adapter().magnitude,
    }).filter(([, parameter]) => parameter !== undefined);
    const {value, grads} = tf.variableGrads(
      () => tf.tidy(() => (layer.apply(x) as tf.Tensor).mul(dy).sum() as tf.Scalar),
      trained.map(([, parameter]) => parameter!.read() as tf.Variable),
    );
    for (const [key, parameter] of trained) {
      await expectClose(
        grads[(parameter!.read() as tf.Variable).name],
        goldenNamed(goldens, `${name}/${key}`),
        TOLERANCE,
      );
    }
    const [dx] = tf.grads((input) => layer.apply(input) as tf.Tensor)([x], dy);
    await expectClose(dx, goldenNamed(goldens, `${name}/d_x`), TOLERANCE);

    layer.merge();
    const merged = layer.apply(x) as tf.Tensor;
    await expectClose(merged, expected, TOLERANCE);
    layer.unmerge();
    const again = layer.apply(x) as tf.Tensor;
    expect(again.dataSync()).toEqual(y.dataSync());

    layer.dispose();
    tf.dispose([x, dy, y, value, grads, dx, merged, again] as tf.TensorContainer[]);
    expect(tf.memory().numTensors).toBe(tensorsBefore);
  });
});
