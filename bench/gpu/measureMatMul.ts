import * as tf from '@tensorflow/tfjs';
import type {WebGPUBackend} from '../../layers/kernels/webgpu/device/webgpuBackend.ts';
import {storedMatMul} from '../../layers/ops/storedMatMul.ts';
import {kernelTimes} from './kernelTimes.ts';
import {randomFloat16} from './randomWeights.ts';

/** Sizes of the products: the number of rows, and the weight by which they are multiplied. */
export const SHAPES = [
  {m: 8192, rows: 8192, cols: 2048, transposeWeight: true},
  {m: 8192, rows: 2048, cols: 2048, transposeWeight: true},
  {m: 8192, rows: 512, cols: 2048, transposeWeight: true},
  {m: 8192, rows: 2048, cols: 8192, transposeWeight: true},
  {m: 8192, rows: 8192, cols: 2048, transposeWeight: false},
  {m: 8192, rows: 2048, cols: 8192, transposeWeight: false},
  {m: 1024, rows: 128256, cols: 2048, transposeWeight: true},
  {m: 1024, rows: 128256, cols: 2048, transposeWeight: false},
];
const REPEATS = 20;
const WARM_UP = 200;

/** Measures TFLOP/s of products with a float16 weight at the sizes of a Llama 3.2 1B step, by GPU time. */
export async function measureMatMul(): Promise<Record<string, string | number>[]> {
  const result: Record<string, string | number>[] = [];
  for (const {m, rows, cols, transposeWeight} of SHAPES) {
    const weight = {tensor: randomFloat16(rows, cols / 2, 1), dtype: 'float16' as const, rows, cols};
    const x = tf.tidy(() =>
      tf.randomUniform([256, transposeWeight ? cols : rows], -1, 1).tile([m / 256, 1]),
    ) as tf.Tensor2D;
    const once = () => storedMatMul(x, weight, transposeWeight).dispose();
    const {queue} = tf.backend() as unknown as WebGPUBackend;
    for (let i = 0; i < WARM_UP; i++) once(); // the card's clock only rises under load
    await queue.onSubmittedWorkDone();
    const profile = await kernelTimes(async () => {
      for (let i = 0; i < REPEATS; i++) once();
      await queue.onSubmittedWorkDone();
    });
    const row: Record<string, string | number> = {
      product: `${m} × [${rows}, ${cols}]${transposeWeight ? 'ᵀ' : ''}`,
    };
    const total = profile.reduce((sum, {milliseconds}) => sum + milliseconds, 0) / REPEATS;
    const main = profile[0].milliseconds / REPEATS;
    const flops = 2 * m * rows * cols;
    row['kernel'] = profile[0].kernel;
    row['ms'] = Number(main.toFixed(3));
    row['TFLOP/s'] = Number((flops / main / 1e9).toFixed(1));
    row['with packing'] = Number((flops / total / 1e9).toFixed(1));
    result.push(row);
    tf.dispose([x, weight.tensor]);
  }
  return result;
}
