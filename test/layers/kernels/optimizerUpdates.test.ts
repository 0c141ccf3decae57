import * as tf from '@tensorflow/tfjs';
import {
  adamW8bitUpdate,
  adamWUpdate,
  type Blockwise8bit,
  fromBlockwise8bit,
  lion8bitUpdate,
  lionUpdate,
  toBlockwise8bit,
} from '../../../layers/index.ts';
import {describeEachBackend, expectNoLeak} from '../../describeEachBackend.ts';
import {expectClose} from '../../expectClose.ts';

const ADAMW = {learningRate: 0.1, beta1: 0.9, beta2: 0.99, epsilon: 1e-6, weightDecay: 0.2, step: 3};
const LION = {learningRate: 0.1, beta1: 0.9, beta2: 0.99, weightDecay: 0.2};
const ADAMW_SETTINGS = [ADAMW, {...ADAMW, weightDecay: 0}, {...ADAMW, step: 1, epsilon: 0, beta1: 0}];
const LION_SETTINGS = [LION, {...LION, weightDecay: 0}, {...LION, beta1: 0}];
/** Sizes whose last block of 256 and last word of four codes are not full. */
const SHAPE = [27, 31];

describeEachBackend('optimizer kernels', (backend) => {
  let value: tf.Tensor;
  let gradient: tf.Tensor;
  let mean: tf.Tensor;
  let variance: tf.Tensor;
  let mean8bit: Blockwise8bit;
  let variance8bit: Blockwise8bit;

  beforeAll(() => {
    const draw = (seed: number) => tf.randomNormal(SHAPE, 0, 1, 'float32', seed);
    [value, gradient, mean] = [draw(1), draw(2), draw(3)];
    variance = tf.tidy(() => draw(4).square());
    mean8bit = toBlockwise8bit(mean, true);
    variance8bit = toBlockwise8bit(variance, false);
  });
  afterAll(() => tf.dispose([value, gradient, mean, variance, mean8bit, variance8bit] as tf.TensorContainer));

  /** Runs an op as its composed reference, which runs if no kernel is registered. */
  function composed<T>(kernelName: string, run: () => T): T {
    const kernel = tf.getKernel(kernelName, backend);
    tf.unregisterKernel(kernelName, backend);
    try {
      return run();
    } finally {
      tf.registerKernel(kernel);
    }
  }

  /** Expects a kernel's results to be those of the composed reference, and no others. */
  function expectSame(kernelName: string, run: () => tf.Tensor[]): void {
    tf.tidy(() => {
      const [actual, expected] = [run(), composed(kernelName, run)];
      expect(actual).toHaveLength(expected.length);
      for (const [i, tensor] of actual.entries()) expectClose(tensor, expected[i], {relative: 1e-6});
    });
  }

  /** Compares values, because codes differ much for a value between two codes. */
  const widened = (state: Blockwise8bit, isSigned: boolean) => fromBlockwise8bit(state, isSigned, SHAPE);

  test.each(ADAMW_SETTINGS)('AdamWUpdate equals its composed reference: %o', (settings) => {
    expectSame('AdamWUpdate', () => adamWUpdate(value, gradient, mean, variance, settings));
  });

  test.each(LION_SETTINGS)('LionUpdate equals its composed reference: %o', (settings) => {
    expectSame('LionUpdate', () => lionUpdate(value, gradient, mean, settings));
  });

  test.each(ADAMW_SETTINGS)('AdamW8bitUpdate equals its composed reference: %o', (settings) => {
    expectSame('AdamW8bitUpdate', () => {
      const [next, nextMean, nextVariance] = adamW8bitUpdate(
        ...([value, gradient, mean8bit, variance8bit, settings] as const),
      );
      return [
        next,
        widened(nextMean, true),
        widened(nextVariance, false),
        nextMean.absmax,
        nextVariance.absmax,
      ];
    });
  });

  test.each(LION_SETTINGS)('Lion8bitUpdate equals its composed reference: %o', (settings) => {
    expectSame('Lion8bitUpdate', () => {
      const [next, momentum] = lion8bitUpdate(value, gradient, mean8bit, settings);
      return [next, widened(momentum, true), momentum.absmax];
    });
  });

  test('leaves unused bytes of the last word zero', () => {
    tf.tidy(() => {
      const [, {codes}] = lion8bitUpdate(value, gradient, mean8bit, LION);
      const words = codes.dataSync();
      expect(new Uint8Array(Int32Array.from(words).buffer).slice(value.size)).toEqual(new Uint8Array(3));
    });
  });

  test('keeps no tensors, composed or not', () => {
    const runs: [string, () => unknown][] = [
      ['AdamWUpdate', () => adamWUpdate(value, gradient, mean, variance, ADAMW)],
      ['LionUpdate', () => lionUpdate(value, gradient, mean, LION)],
      ['AdamW8bitUpdate', () => adamW8bitUpdate(value, gradient, mean8bit, variance8bit, ADAMW)],
      ['Lion8bitUpdate', () => lion8bitUpdate(value, gradient, mean8bit, LION)],
    ];
    for (const [kernelName, run] of runs) {
      expectNoLeak(run);
      expectNoLeak(() => composed(kernelName, run));
    }
  });

  test('refuses 8-bit states of another weight, and gradients that are not finite', () => {
    const wrong = {...mean8bit, absmax: mean8bit.codes};
    expect(() => lion8bitUpdate(value, gradient, wrong, LION)).toThrow(
      'lion8bitUpdate momentum absmax: expected [4], got [210]',
    );
    expect(() => adamW8bitUpdate(value, gradient, mean8bit, {...variance8bit, codes: value}, ADAMW)).toThrow(
      'adamW8bitUpdate variance codes: expected [210], got [27, 31]',
    );
    tf.tidy(() => {
      const infinite = gradient.div(0);
      expect(() => adamW8bitUpdate(value, infinite, mean8bit, variance8bit, ADAMW)).toThrow(
        /AdamW8bit mean.*Infinity/,
      );
    });
  });
});
