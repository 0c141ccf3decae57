import * as tf from '@tensorflow/tfjs';
import {freeSpent, isSpent} from '../../../layers/ops/freeSpent.ts';
import {describeEachBackend, expectNoLeak} from '../../describeEachBackend.ts';
import {expectClose} from '../../expectClose.ts';

describeEachBackend('freeSpent', () => {
  /** Has paths that meet, a gradient that is passed through, one for two inputs, and an op with several outputs. */
  const twice = tf.customGrad((a, b) => {
    return {value: tf.add(a as tf.Tensor, b as tf.Tensor), gradFunc: (dy: tf.Tensor) => [dy, dy]};
  });
  const branching = (x: tf.Tensor) => {
    const [left, right] = tf.split(x.square(), 2);
    const both = twice(left, right.exp());
    return both.mul(left).add(right.transpose().transpose()).sum() as tf.Scalar;
  };
  const input = () => tf.linspace(-1, 1, 12).reshape([6, 2]);

  test('leaves gradients as they are', async () => {
    const x = input();
    const expected = tf.grad(branching)(x);
    const got = tf.grad((x: tf.Tensor) => {
      const y = branching(x);
      freeSpent();
      return y;
    })(x);
    expectClose(await got.data(), await expected.data(), {relative: 1e-6});
  });

  test('leaves the gradient that backward starts with if the caller owns it', () => {
    const x = input();
    const dy = tf.ones([6, 2]);
    const run = () =>
      tf.grad((x: tf.Tensor) => {
        const y = x.square().exp();
        freeSpent(dy);
        return y;
      })(x, dy);
    expectNoLeak(run);
    expect(dy.isDisposed).toBe(false);
  });

  test('marks a gradient and what an op kept for it as spent, but not the gradient that the caller owns', () => {
    const marks: Record<string, boolean[]> = {};
    const named = (name: string) =>
      tf.customGrad((x, save) => {
        (save as tf.GradSaveFunc)([x as tf.Tensor]);
        const gradFunc = (dy: tf.Tensor, [kept]: tf.Tensor[]) => {
          marks[name] = [isSpent(dy), isSpent(kept)];
          return dy.mul(kept);
        };
        return {value: (x as tf.Tensor).clone(), gradFunc};
      });
    const dy = tf.ones([6, 2]);
    const run = () =>
      tf.grad((x: tf.Tensor) => {
        const y = named('last')(named('first')(x));
        freeSpent(dy);
        return y;
      })(input(), dy);
    tf.tidy(run);
    expect(marks).toEqual({last: [false, true], first: [true, true]});
    dy.dispose();
  });

  test('holds one gradient at a time along a chain', () => {
    /** Returns the number of tensors alive when backward reaches the first of 20 ops. */
    const alive = (isFreed: boolean): number => {
      let count = 0;
      const first = tf.customGrad((x) => {
        const gradFunc = (dy: tf.Tensor) => {
          count = tf.memory().numTensors;
          return dy.clone();
        };
        return {value: (x as tf.Tensor).clone(), gradFunc};
      });
      const x = input();
      const gradient = tf.grad((x: tf.Tensor) => {
        let y = first(x) as tf.Tensor;
        for (let i = 0; i < 20; i++) y = y.square();
        if (isFreed) freeSpent();
        return y;
      })(x);
      tf.dispose([x, gradient]);
      return count;
    };
    expect(alive(false) - alive(true)).toBeGreaterThan(35); // a gradient and what was kept for it, times twenty
  });
});
