import * as tf from '@tensorflow/tfjs';
import {freeSpent} from '../../../../layers/ops/freeSpent.ts';
import {rmsNorm} from '../../../../layers/ops/rmsNorm.ts';
import {RMSNorm} from '../../../../layers/rmsNorm.ts';
import {expectNoLeak} from '../../../describeEachBackend.ts';
import {choose, describeWebGPU, expectSame, normal} from './webgpuOnly.ts';

describeWebGPU('rmsNorm over rows that are not needed again, in float16', () => {
  beforeAll(() => choose('float16'));
  afterAll(() => choose('float32'));

  const [shape, size] = [[2, 3, 300], 300];

  test('gives the same result, in the memory of the rows, and the same gradient', async () => {
    const [x, dy] = [normal(shape, 1, 50), normal(shape, 2)];
    const weight = tf.variable(normal([size], 3), false);
    const plain = (x: tf.Tensor) => rmsNorm(x, weight);
    let isOver = false;
    const over = (x: tf.Tensor) => {
      const given = tf.tidy(() => x.mul(1));
      const y = rmsNorm(given, weight, 1e-5, 0, true);
      isOver = y.dataId === given.dataId;
      given.dispose();
      freeSpent(dy);
      return y;
    };
    const [value, gradient] = [plain(x), tf.grad(plain)(x, dy)];
    const got = tf.valueAndGrad(over)(x, dy);
    expect(isOver).toBe(true);
    await expectSame(got.value, value, 1e-6);
    await expectSame(got.grad, gradient, 1e-3);
    expectNoLeak(() => tf.grad(over)(x, dy));
    tf.dispose([x, dy, weight]);
  });

  test('leaves rows that others have, and those of a pass without gradients', async () => {
    const x = normal([3, 8], 4);
    const layer = new RMSNorm();
    const expected = layer.apply(x) as tf.Tensor;
    layer.weight.trainable = false;
    const shared = x.clone();
    const {value, grad} = tf.valueAndGrad((x: tf.Tensor) => layer.over(x))(shared, tf.onesLike(x));
    expect(value.dataId).not.toBe(x.dataId);
    await expectSame(value, expected.clone(), 1e-6);
    await expectSame(layer.over(x), expected, 1e-6);
    await expectSame(shared, x, 0);
    tf.dispose([grad]);
    layer.dispose();
  });
});
