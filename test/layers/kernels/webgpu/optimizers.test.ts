import * as tf from '@tensorflow/tfjs';
import {
  adamWUpdate,
  adamWUpdates,
  fromBlockwise8bit,
  lionUpdate,
  toBlockwise8bit,
} from '../../../../layers/index.ts';
import {dequantizeBlockwise, dynamicMap, quantizeBlockwise} from '../../../../quant/index.ts';
import {AdamW, AdamW8bit, Lion8bit, PagedAdamW, PagedAdamW8bit} from '../../../../src/index.ts';
import type {NamedStateOptimizer} from '../../../../src/training/optimizers/index.ts';
import {expectNoLeak} from '../../../describeEachBackend.ts';
import {expectClose} from '../../../expectClose.ts';
import {
  gradientsAt,
  MIN_8BIT_SIZE,
  makeOptimizer,
  makeWeights,
  valuesOf,
} from '../../../src/training/optimizers/everyOptimizer.ts';
import {describeWebGPU, expectSame, normal} from './webgpuOnly.ts';

const LION = {learningRate: 0.1, beta1: 0.9, beta2: 0.99, weightDecay: 0.2};

describeWebGPU('optimizer kernels', () => {
  test.each([1, 4, 255, 256, 257, 1003, 5000])('%i values in 8-bit blocks, and back', async (size) => {
    for (const isSigned of [true, false]) {
      const values = Float32Array.from({length: size}, (_, i) => {
        if (i >= 256 && i < 512) return 0;
        const value = Math.sin(i * 1.7) * 10 ** (-5 * Math.abs(Math.sin(i * 0.3)));
        return isSigned ? value : Math.abs(value);
      });
      const map = dynamicMap(isSigned);
      const expected = quantizeBlockwise(values, {map});
      const source = tf.tensor1d(values);
      const stored = toBlockwise8bit(source, isSigned);
      const back = fromBlockwise8bit(stored, isSigned, [1, size]);
      const [words, absmax] = [await stored.codes.data(), await stored.absmax.data()];
      const codes = new Uint8Array(words.buffer, words.byteOffset, 4 * words.length);
      expect(Array.from(absmax)).toEqual(Array.from(expected.absmax));
      // A card may round the quotient differently, which moves a value between two codes.
      const differing = expected.codes.filter((code, i) => code !== codes[i]);
      expect(differing.length).toBeLessThanOrEqual(size / 1000);
      for (const [i, code] of expected.codes.entries())
        expect(Math.abs(code - codes[i])).toBeLessThanOrEqual(1);
      expect(codes.subarray(size).every((code) => code === 0)).toBe(true);
      const exact = dequantizeBlockwise({codes: codes.slice(0, size), absmax: expected.absmax}, {map});
      expect(Array.from(await back.data())).toEqual(Array.from(exact));
      expectNoLeak(() => toBlockwise8bit(source, isSigned));
      expectNoLeak(() => fromBlockwise8bit(stored, isSigned, [size]));
      tf.dispose([source, stored, back] as tf.TensorContainer);
    }
  });

  test.each([[[5, 7]], [[16, 16]]])('LionUpdate of %j', async (shape) => {
    const inputs = [normal(shape, 1), normal(shape, 2), normal(shape, 3)] as const;
    const run = () => lionUpdate(...inputs, LION);
    const actual = run();
    const kernel = tf.getKernel('LionUpdate', 'webgpu');
    tf.unregisterKernel('LionUpdate', 'webgpu');
    const expected = run();
    tf.registerKernel(kernel);
    for (const [i, tensor] of actual.entries()) await expectSame(tensor, expected[i], 1e-6);
    expectNoLeak(run);
    tf.dispose([...inputs]);
  });

  test('AdamW of several variables equals that of each, and overwrites none unless it may', async () => {
    const settings = {
      ...{learningRate: 0.01, beta1: 0.9, beta2: 0.999},
      epsilon: 1e-8,
      weightDecay: 0.1,
      step: 3,
    };
    const updates = [[5, 7], [300], [1], [64, 33], [2, 2], [1000], [3]].map((shape, i) => ({
      value: normal(shape, 4 * i),
      gradient: normal(shape, 4 * i + 1),
      mean: normal(shape, 4 * i + 2),
      variance: normal(shape, 4 * i + 3).abs(),
    }));
    const before = await Promise.all(updates.map(({value}) => value.data()));
    const together = adamWUpdates(updates, settings);
    for (const [i, {value, gradient, mean, variance}] of updates.entries()) {
      expect(await value.data()).toEqual(before[i]);
      const alone = adamWUpdate(value, gradient, mean, variance, settings);
      for (const [j, tensor] of together[i].entries()) await expectSame(tensor, alone[j], 1e-6);
    }
    expectNoLeak(() => adamWUpdates(updates, settings));
    tf.dispose(updates as unknown as tf.TensorContainer);
  });

  test('LoRA+ gives variables their own rates when they are updated together', async () => {
    const weights = ['lora_A', 'lora_B', 'lora_A.1', 'lora_B.1'].map((name) =>
      tf.variable(tf.ones([3, 1]), true, name),
    );
    const gradients = Object.fromEntries(weights.map(({name}) => [name, tf.ones([3, 1])]));
    const optimizer = new AdamW({learningRate: 0.01, loraPlusRatio: 4, weightDecay: 0});
    optimizer.applyGradients(gradients);
    for (const weight of weights) {
      const [value] = await weight.data();
      expect(value).toBeCloseTo(weight.name.includes('lora_B') ? 0.96 : 0.99, 5);
    }
    optimizer.dispose();
    tf.dispose([weights, gradients] as tf.TensorContainer);
  });

  const ARGS = {learningRate: 0.01, min8bitSize: MIN_8BIT_SIZE, weightDecay: 0.1};

  async function train(optimizer: NamedStateOptimizer): Promise<number[][]> {
    const weights = makeWeights();
    for (let step = 0; step < 5; step++) {
      const gradients = gradientsAt(step);
      if (step % 2) optimizer.applyGradients(gradients);
      else await optimizer.applyGradientsAsync(gradients);
      tf.dispose(gradients);
    }
    const values = await valuesOf(weights);
    await optimizer.flush();
    optimizer.dispose();
    tf.dispose(weights);
    return values;
  }

  test.each([
    ['PagedAdamW', PagedAdamW, AdamW],
    ['PagedAdamW8bit', PagedAdamW8bit, AdamW8bit],
  ] as const)('%s equals the unpaged, bit for bit, and keeps no tensors', async (_, Paged, Unpaged) => {
    const expected = await train(makeOptimizer(Unpaged, ARGS));
    for (const deviceBudgetBytes of [undefined, 4 * 2 * 2 * 660]) {
      await expectNoLeak(async () => {
        expect(await train(makeOptimizer(Paged, {...ARGS, deviceBudgetBytes}))).toEqual(expected);
      });
    }
  });

  test.each([
    ['AdamW8bit', AdamW8bit],
    ['Lion8bit', Lion8bit],
  ] as const)('%s goes where it goes on the cpu backend', async (_, Optimizer) => {
    const actual = await train(new Optimizer(ARGS));
    await tf.setBackend('cpu');
    const expected = await train(new Optimizer(ARGS));
    await tf.setBackend('webgpu');
    for (const [i, values] of actual.entries()) expectClose(values, expected[i], {relative: 1e-4});
  });
});
