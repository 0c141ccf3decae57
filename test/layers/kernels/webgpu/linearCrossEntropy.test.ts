import * as tf from '@tensorflow/tfjs';
import {hasKernel} from '../../../../layers/ops/dispatch.ts';
import {
  linearCrossEntropy,
  linearCrossEntropyOp,
  linearTokenLosses,
} from '../../../../layers/ops/linearCrossEntropy.ts';
import {packFloat32Rows} from '../../../../quant/float16.ts';
import {expectNoLeak} from '../../../describeEachBackend.ts';
import {choose, describeWebGPU, expectSame, normal} from './webgpuOnly.ts';

describeWebGPU('linearCrossEntropy in float16', () => {
  afterAll(() => choose('float32'));

  test('agrees with plain float32 ops in loss and gradient, over two chunks with ignored labels', async () => {
    const [count, vocab, size] = [200, 96, 32]; // two chunks: the step is 128 rows at least
    const values = Float32Array.from({length: vocab * size}, (_, i) => Math.sin(i * i) / 3);
    const tensor = tf.tensor2d(packFloat32Rows(values, vocab, size, 'float16'), [vocab, size / 2], 'int32');
    const weight = {tensor, dtype: 'float16', rows: vocab, cols: size} as const;
    const hidden = normal([count, size], 1) as tf.Tensor2D;
    const labels = tf.tensor1d(
      Array.from({length: count}, (_, i) => (i % 7 === 0 ? -100 : (i * 31) % vocab)),
      'int32',
    );
    const loss = (x: tf.Tensor) => linearCrossEntropy(x as tf.Tensor2D, weight, labels);
    const [value, gradient] = [loss(hidden), tf.grad(loss)(hidden)];
    await choose('float16');
    expect(hasKernel(linearCrossEntropyOp)).toBe(true);
    await expectSame(loss(hidden), value, 2e-3);
    await expectSame(tf.grad(loss)(hidden), gradient.clone(), 2e-3);
    expectNoLeak(() => tf.grad(loss)(hidden));
    // States that are not needed again are overwritten by their gradient, unless they are shared.
    const ofSpent = (x: tf.Tensor) =>
      linearCrossEntropy(x as tf.Tensor2D, weight, labels, undefined, undefined, true);
    await expectSame(tf.grad((x) => ofSpent(tf.mul(x, 1)))(hidden), gradient.clone(), 2e-3);
    expectNoLeak(() => tf.grad((x) => ofSpent(tf.mul(x, 1)))(hidden));
    const kept = tf.mul(hidden, 1);
    await expectSame(tf.grad(ofSpent)(kept.clone()), gradient, 2e-3);
    await expectSame(kept, hidden, 0);
    tf.dispose([tensor, labels]);
  });

  test('agrees with plain float32 ops in the loss of each row, and in their gradients weighted', async () => {
    const [count, vocab, size] = [140, 96, 32];
    const values = Float32Array.from({length: vocab * size}, (_, i) => Math.sin(i * i) / 3);
    const tensor = tf.tensor2d(packFloat32Rows(values, vocab, size, 'float16'), [vocab, size / 2], 'int32');
    const weight = {tensor, dtype: 'float16', rows: vocab, cols: size} as const;
    const hidden = normal([count, size], 1) as tf.Tensor2D;
    const ids = Int32Array.from({length: count}, (_, i) => (i % 7 === 0 ? -100 : (i * 31) % vocab));
    const labels = tf.tensor1d(ids, 'int32');
    const dy = normal([count], 2);
    const losses = (x: tf.Tensor) => linearTokenLosses(x as tf.Tensor2D, weight, labels);
    await choose('float32');
    const [value, gradient] = [losses(hidden), tf.grad(losses)(hidden, dy)];
    await choose('float16');
    await expectSame(losses(hidden), value, 2e-3);
    await expectSame(tf.grad(losses)(hidden, dy), gradient, 2e-3);
    expectNoLeak(() => tf.grad(losses)(hidden, dy));
    expectNoLeak(() => losses(hidden));
    tf.dispose([tensor, hidden, labels, dy]);
  });
});
