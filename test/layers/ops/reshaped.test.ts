import * as tf from '@tensorflow/tfjs';
import {reshaped} from '../../../layers/ops/reshaped.ts';
import {describeEachBackend} from '../../describeEachBackend.ts';

describeEachBackend('reshaped', () => {
  test('has the gradient of tf.reshape, and does not keep its input for it', () => {
    const x = tf.tensor1d([1, 2, 3, 4]);
    const factor = tf.tensor2d([1, 2, 3, 4], [2, 2]);
    const bytesHeld = (reshape: (x: tf.Tensor, shape: number[]) => tf.Tensor) => {
      let held = 0;
      const gradient = tf.grad((x) => {
        const before = tf.memory().numBytes;
        const y = tf.tidy(() => reshape(tf.neg(x), [2, 2]).mul(factor));
        held = tf.memory().numBytes - before;
        return y;
      })(x);
      expect([...gradient.dataSync()]).toEqual([-1, -2, -3, -4]);
      expect(gradient.shape).toEqual([4]);
      gradient.dispose();
      return held;
    };
    expect(bytesHeld(tf.reshape) - bytesHeld(reshaped)).toBe(4 * x.size);
    tf.dispose([x, factor]);
  });
});
