import * as tf from '@tensorflow/tfjs';
import {packHalves} from '../../../../layers/kernels/webgpu/attention/packHalves.ts';
import type {WebGPUBackend} from '../../../../layers/kernels/webgpu/device/webgpuBackend.ts';
import {float16ToFloat32} from '../../../../quant/float16.ts';
import {choose, describeWebGPU, normal} from './webgpuOnly.ts';

describeWebGPU('packHalves', () => {
  beforeAll(() => choose('float16'));
  afterAll(() => choose('float32'));

  test('multiplies rows, and subtracts the first of each matrix where that is asked for', async () => {
    const backend = tf.backend() as unknown as WebGPUBackend;
    const [plain, keys] = [normal([2, 3, 16], 1), tf.add(normal([2, 5, 8], 2), 1000)];
    const packed = packHalves(backend, [
      {x: plain, factor: 3},
      {x: keys, isRelative: true},
    ]);
    const [first, second] = await Promise.all(
      packed.map(async ({dataId}) =>
        float16ToFloat32(new Uint16Array(((await backend.read(dataId)) as Int32Array).buffer)),
      ),
    );
    const [given, rows] = [await plain.data(), await keys.data()];
    for (const [i, value] of first.entries()) expect(Math.abs(value - 3 * given[i])).toBeLessThan(5e-3);
    for (const [i, value] of second.entries()) {
      const relative = rows[i] - rows[Math.floor(i / 40) * 40 + (i % 8)];
      expect(Math.abs(value - relative)).toBeLessThan(2e-3);
    }
    for (const {dataId} of packed) backend.disposeData(dataId);
    tf.dispose([plain, keys]);
  });
});
