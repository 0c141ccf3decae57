import * as tf from '@tensorflow/tfjs';
import {customGradient} from '../../../layers/ops/customGradient.ts';
import {gradientCheckpoint} from '../../../layers/ops/gradientCheckpoint.ts';
import {keptResults} from '../../../layers/ops/keptResults.ts';
import {loraLinear} from '../../../layers/ops/loraLinear.ts';
import {describeEachBackend, expectNoLeak} from '../../describeEachBackend.ts';
import {expectClose} from '../../expectClose.ts';
import {expectSameFunction, normal} from './expectSameFunction.ts';

describeEachBackend('loraLinear', () => {
  test('equals the plain tape, with gradients of base, x, A and B', () =>
    expectSameFunction(
      (base, x, a, b) => loraLinear(base, x, a, b, 0.75),
      (base, x, a, b) => tf.add(base, tf.mul(tf.matMul(tf.matMul(x, a, false, true), b, false, true), 0.75)),
      [normal([4, 6], 1), normal([4, 5], 2), normal([2, 5], 3), normal([6, 2], 4)],
    ));

  test('names the shapes it got', () => {
    const [base, x, a, b] = [
      normal([4, 6], 1),
      normal([4, 5], 2),
      normal([2, 5], 3),
      normal([6, 2], 4),
    ] as tf.Tensor2D[];
    expect(() => loraLinear(base, x, b, b, 1)).toThrow('loraLinear a: expected [2, 5], got [6, 2]');
    expect(() => loraLinear(x, x, a, b, 1)).toThrow('loraLinear base: expected [4, 6], got [4, 5]');
  });
});

describeEachBackend('customGradient', () => {
  test('uses the given gradient, and frees what backward made', () => {
    const f = (x: tf.Tensor) =>
      customGradient(
        [x],
        () => ({value: tf.square(x), saved: [x]}),
        (dy, [kept]) => [tf.mul(tf.mul(dy, kept), 10)],
      );
    const x = tf.tensor1d([1, 2]);
    expectClose(tf.grad(f)(x), [10, 20]);
    expectNoLeak(() => tf.grad(f)(x));
  });
});

describeEachBackend('gradientCheckpoint', () => {
  /** A residual block with a weight it reads from outside. */
  const block = (x: tf.Tensor, weight: tf.Tensor, shift: tf.Tensor) => {
    const y = tf.tanh(tf.matMul(x as tf.Tensor2D, weight as tf.Tensor2D));
    return tf.add(x, tf.mul(y, shift));
  };

  test('equals the plain tape for inputs; constants need no gradient', () => {
    const [weight, shift] = [normal([4, 4], 1), normal([4], 2)];
    expectSameFunction(
      (x) => gradientCheckpoint((y, c) => tf.tidy(() => block(y, weight, c)), [x], {constants: [shift]}),
      (x) => block(x, weight, shift),
      [normal([3, 4], 3)],
    );
  });

  test('keeps the results that request it, and runs the rest again', () => {
    let runs = 0;
    const costly = (x: tf.Tensor) =>
      customGradient(
        [x],
        () => {
          const [y] = keptResults(() => {
            runs++;
            return [tf.exp(x)];
          });
          return {value: y, saved: [y]};
        },
        (dy, [y]) => [tf.mul(dy, y)],
      );
    const doubled = (f: (x: tf.Tensor) => tf.Tensor) => (x: tf.Tensor) =>
      tf.tidy(() => tf.mul(f(tf.sin(x)), 2));
    const op = (x: tf.Tensor) =>
      gradientCheckpoint(
        doubled((y) => costly(costly(y))),
        [x],
      );
    expectSameFunction(
      op,
      doubled((y) => tf.exp(tf.exp(y))),
      [normal([3, 4], 3)],
    );
    runs = 0;
    const x = normal([2], 1);
    tf.dispose(tf.grad(op)(x));
    expect(runs).toBe(2);
    const failing = () => {
      costly(x);
      throw new Error('stop');
    };
    expectNoLeak(() => expect(() => tf.tidy(() => gradientCheckpoint(failing, [x]))).toThrow('stop'));
  });

  test('differentiates trained variables of a stack of blocks in variableGrads, twice', () => {
    const weights = [1, 2, 3].map((seed) => tf.variable(normal([4, 4], seed)));
    const [x, shift] = [normal([3, 4], 9), normal([4], 8)];
    const loss = (recomputed: boolean) => () =>
      tf.tidy(() => {
        let h = x as tf.Tensor;
        for (const weight of weights) {
          h = recomputed
            ? gradientCheckpoint((y, c) => tf.tidy(() => block(y, weight, c)), [h], {
                variables: [weight],
                constants: [shift],
              })
            : block(h, weight, shift);
        }
        return tf.sum(tf.square(h)) as tf.Scalar;
      });
    const expected = tf.variableGrads(loss(false), weights);
    for (let run = 0; run < 2; run++) {
      const got = tf.variableGrads(loss(true), weights);
      expectClose(got.value, expected.value);
      for (const {name} of weights) expectClose(got.grads[name], expected.grads[name]);
      tf.dispose([got.value, got.grads]);
    }
    expectNoLeak(() => {
      const {value, grads} = tf.variableGrads(loss(true), weights);
      return [value, grads];
    });
    // The tape is whole again, so an ordinary gradient right after is correct.
    expectClose(tf.grad((y) => tf.square(y))(tf.scalar(3)), [6]);
    tf.dispose([expected.value, expected.grads, x, shift]);
    for (const weight of weights) weight.dispose();
  });

  test('gives zeros to a variable that the block does not use', () => {
    const unused = tf.variable(normal([2], 1));
    const {grads} = tf.variableGrads(
      () =>
        tf.sum(
          gradientCheckpoint((x) => tf.square(x), [tf.tensor1d([1, 2])], {variables: [unused]}),
        ) as tf.Scalar,
      [unused],
    );
    expectClose(grads[unused.name], [0, 0]);
    unused.dispose();
  });

  test('recomputes a block of recomputed blocks', () => {
    const weight = tf.variable(normal([4, 4], 1));
    const x = normal([2, 4], 2);
    const inner = (y: tf.Tensor) =>
      gradientCheckpoint(
        (z) => tf.tidy(() => tf.tanh(tf.matMul(z as tf.Tensor2D, weight as tf.Tensor as tf.Tensor2D))),
        [y],
        {
          variables: [weight],
        },
      );
    const nested = () =>
      tf.sum(
        gradientCheckpoint((y) => tf.tidy(() => inner(inner(y))), [x], {variables: [weight]}),
      ) as tf.Scalar;
    const plainly = () => {
      const once = (y: tf.Tensor) => tf.tanh(tf.matMul(y as tf.Tensor2D, weight as tf.Tensor as tf.Tensor2D));
      return tf.sum(once(once(x))) as tf.Scalar;
    };
    const got = tf.variableGrads(nested, [weight]);
    const expected = tf.variableGrads(plainly, [weight]);
    expectClose(got.grads[weight.name], expected.grads[weight.name]);
    weight.dispose();
  });

  test('leaves the engine usable after an error in the block', () => {
    let calls = 0;
    const failing = (x: tf.Tensor) => {
      if (calls++ > 0) throw new Error('second run');
      return tf.square(x);
    };
    expect(() => tf.grad((x) => gradientCheckpoint(failing, [x]))(tf.scalar(2))).toThrow('second run');
    expectClose(tf.grad((x) => tf.square(x))(tf.scalar(3)), [6]);
  });

  test('keeps less than the plain tape', () => {
    const peak = (recomputed: boolean) => {
      const engine = tf.engine();
      const original = engine.runKernel;
      const start = tf.memory().numBytes;
      let most = 0;
      engine.runKernel = ((...args: Parameters<typeof original>) => {
        const result = original.apply(engine, args);
        most = Math.max(most, tf.memory().numBytes);
        return result;
      }) as typeof original;
      try {
        const deep = (y: tf.Tensor) => {
          let z = y;
          for (let i = 0; i < 6; i++) z = tf.tanh(tf.mul(z, 1.1));
          return z;
        };
        const grad = tf.grad((x) => {
          let h = x;
          for (let i = 0; i < 6; i++)
            h = recomputed ? gradientCheckpoint((y) => tf.tidy(() => deep(y)), [h]) : deep(h);
          return h;
        })(x);
        grad.dispose();
      } finally {
        engine.runKernel = original;
      }
      return most - start;
    };
    const x = normal([64, 64], 1);
    expect(peak(true)).toBeLessThan(0.6 * peak(false));
  });
});
