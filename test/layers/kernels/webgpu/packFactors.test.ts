import * as tf from '@tensorflow/tfjs';
import type {WebGPUBackend} from '../../../../layers/kernels/webgpu/device/webgpuBackend.ts';
import {packFactors} from '../../../../layers/kernels/webgpu/products/matrixProject.ts';
import {float16ToFloat32} from '../../../../quant/float16.ts';
import {choose, describeWebGPU, normal} from './webgpuOnly.ts';

describeWebGPU('packFactors', () => {
  beforeAll(() => choose('float16'));
  afterAll(() => choose('float32'));

  test('stores ranks in tiles by group, scaled, and zeros where there is none', async () => {
    const backend = tf.backend() as unknown as WebGPUBackend;
    const factorOf = (rank: number, cols: number, seed: number, isTransposed: boolean) => ({
      tensor: normal(isTransposed ? [cols, rank] : [rank, cols], seed, 10 ** -seed) as tf.Tensor2D,
      isTransposed,
      scale: seed,
    });
    const groups = [
      [factorOf(8, 32, 1, false), factorOf(3, 32, 2, true), factorOf(16, 32, 3, false)],
      [factorOf(20, 48, 4, true)],
    ];
    const {packs, tensors} = packFactors(backend, groups);
    const [words, scales] = await Promise.all(tensors.map(({dataId}) => backend.read(dataId)));
    const halves = float16ToFloat32(new Uint16Array((words as Int32Array).buffer));
    for (const [g, {cols, ranks, factor, scales: own}] of packs.entries()) {
      const tiles = factor.shape[0] / cols / 8;
      const first = (factor.firstByte ?? 0) / 2;
      let row = 0;
      for (const [i, rank] of ranks.entries()) {
        const {tensor, isTransposed, scale} = groups[g][i];
        const values = await tensor.data();
        const largest = Math.max(...values.map(Math.abs));
        for (let r = 0; r < 4 * Math.ceil(rank / 4); r++, row++) {
          for (let col = 0; col < cols; col++) {
            const tile = Math.floor(col / 16) * tiles + Math.floor(row / 16);
            const got = halves[first + tile * 256 + (row % 16) * 16 + (col % 16)];
            const unit = (scales as Float32Array)[(own.firstByte ?? 0) / 4 + row];
            const expected = r < rank ? values[isTransposed ? col * rank + r : r * cols + col] : 0;
            expect(Math.abs((got * unit) / scale - expected)).toBeLessThan(1e-3 * largest);
          }
        }
      }
    }
    for (const {dataId} of tensors) backend.disposeData(dataId);
    tf.dispose(groups.flat().map(({tensor}) => tensor));
  });
});
