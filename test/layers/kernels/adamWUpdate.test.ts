import * as tf from '@tensorflow/tfjs';
import {type AdamWSettings, adamWUpdate} from '../../../layers/ops/adamWUpdate.ts';
import {describeEachBackend, expectNoLeak} from '../../describeEachBackend.ts';
import {expectClose} from '../../expectClose.ts';

const SETTINGS = {learningRate: 0.1, beta1: 0.9, beta2: 0.99, epsilon: 1e-6, weightDecay: 0.2, step: 3};

describeEachBackend('the AdamWUpdate kernel', (backend) => {
  let inputs: [tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor];
  const update = (settings: AdamWSettings) => adamWUpdate(...inputs, settings);
  /** The composed reference, which runs where no kernel is registered. */
  const composed = (settings: AdamWSettings) => {
    const kernel = tf.getKernel('AdamWUpdate', backend);
    tf.unregisterKernel('AdamWUpdate', backend);
    try {
      return update(settings);
    } finally {
      tf.registerKernel(kernel);
    }
  };

  beforeAll(() => {
    const draw = (seed: number) => tf.randomNormal([5, 7], 0, 1, 'float32', seed);
    inputs = [draw(1), draw(2), draw(3), tf.tidy(() => draw(4).square())];
  });
  afterAll(() => tf.dispose(inputs));

  test.each([SETTINGS, {...SETTINGS, weightDecay: 0}, {...SETTINGS, step: 1, epsilon: 0, beta1: 0}])(
    'equals the composed reference: %o',
    (settings) => {
      const [actual, expected] = [update(settings), composed(settings)];
      expect(actual).toHaveLength(3);
      for (const [i, tensor] of actual.entries()) expectClose(tensor, expected[i], {relative: 1e-6});
      tf.dispose([actual, expected] as tf.TensorContainer);
    },
  );

  test('keeps no tensors', () => expectNoLeak(() => update(SETTINGS)));
});
