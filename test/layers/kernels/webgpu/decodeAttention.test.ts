import * as tf from '@tensorflow/tfjs';
import type {WebGPUBackend} from '../../../../layers/kernels/webgpu/device/webgpuBackend.ts';
import {decodeAttention} from '../../../../layers/ops/decodeAttention.ts';
import {expectNoLeak} from '../../../describeEachBackend.ts';
import {describeWebGPU, expectSame, normal} from './webgpuOnly.ts';

describeWebGPU('DecodeAttention', () => {
  test.each([1, 2])(
    'takes padded batches on a device that binds eight buffers, tables of batch %d',
    async (tables) => {
      const [query, key, value] = [normal([2, 16], 1), normal([2, 8], 2), normal([2, 8], 3)] as tf.Tensor2D[];
      const [cos, sin] = [normal([tables, 1, 1, 4], 4), normal([tables, 1, 1, 4], 5)] as tf.Tensor4D[];
      const segments = tf.tensor2d(
        [
          [0, 1, 1],
          [1, 1, 1],
        ],
        undefined,
        'int32',
      );
      const run = () => {
        const [keys, values] = [normal([2, 1, 5, 8], 6), normal([2, 1, 5, 8], 7)] as tf.Tensor4D[];
        return tf.tidy(() => decodeAttention({query, key, value, cos, sin, keys, values, segments}, 2));
      };
      const expected = run();
      const {device} = tf.backend() as unknown as WebGPUBackend;
      const {limits} = device;
      const change = (value: GPUSupportedLimits) =>
        Object.defineProperty(device, 'limits', {value, configurable: true, writable: true});
      const eight = (target: GPUSupportedLimits, key: keyof GPUSupportedLimits) =>
        key === 'maxStorageBuffersPerShaderStage' ? 8 : target[key];
      change(new Proxy(limits, {get: eight as ProxyHandler<GPUSupportedLimits>['get']}));
      try {
        for (const [i, tensor] of run().entries()) await expectSame(tensor, expected[i]);
        expectNoLeak(() => tf.tidy(() => run() && undefined));
      } finally {
        change(limits);
      }
    },
  );

  test.each([[0], [255], [256], [300], [512]])(
    'sees all of %d positions before the new one',
    async (past) => {
      const [heads, dim, capacity] = [2, 16, 520];
      const [query, key, value] = [1, 2, 3].map((seed) => normal([1, heads * dim], seed)) as tf.Tensor2D[];
      const [keys, values] = [4, 5].map((seed) => normal([1, heads, capacity, dim], seed)) as tf.Tensor4D[];
      const [cos, sin] = [tf.ones([1, 1, 1, dim / 2]), tf.zeros([1, 1, 1, dim / 2])] as tf.Tensor4D[];
      const expected = tf.tidy(() => {
        const all = (cache: tf.Tensor, own: tf.Tensor) =>
          tf.concat([cache.slice([0, 0, 0, 0], [1, heads, past, dim]), own.reshape([1, heads, 1, dim])], 2);
        const scores = tf.matMul(query.reshape([1, heads, 1, dim]), all(keys, key), false, true);
        return tf
          .matMul(tf.softmax(scores.div(Math.sqrt(dim))), all(values, value))
          .reshape([1, heads * dim]);
      });
      const [y] = tf.tidy(() => decodeAttention({query, key, value, cos, sin, keys, values}, past));
      await expectSame(y, expected);
      tf.dispose([query, key, value, keys, values, cos, sin]);
    },
  );
});
