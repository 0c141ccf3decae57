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
});
