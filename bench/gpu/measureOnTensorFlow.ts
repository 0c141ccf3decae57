import * as tf from '@tensorflow/tfjs';
import {storedMatMul} from '../../layers/ops/storedMatMul.ts';
import {SHAPES} from './measureMatMul.ts';
import {randomOnTensorFlow} from './randomWeights.ts';

const REPEATS = 10;

/** Measures TFLOP/s of TensorFlow's products in a Llama 3.2 1B step by wall time, including conversions. */
export async function measureOnTensorFlow(): Promise<Record<string, string | number>[]> {
  const rows: Record<string, string | number>[] = [];
  for (const {m, rows: outputs, cols, transposeWeight} of SHAPES) {
    const row: Record<string, string | number> = {
      product: `${m} × [${outputs}, ${cols}]${transposeWeight ? 'ᵀ' : ''}`,
    };
    for (const dtype of ['float16', 'bfloat16'] as const) {
      const weight = {tensor: randomOnTensorFlow(dtype, outputs, cols / 2, 1), dtype, rows: outputs, cols};
      const x = tf.tidy(() =>
        tf.randomUniform([256, transposeWeight ? cols : outputs], -1, 1).tile([m / 256, 1]),
      ) as tf.Tensor2D;
      const several = async (count: number) => {
        const begun = performance.now();
        for (let i = 0; i < count; i++) storedMatMul(x, weight, transposeWeight).dispose();
        await tf.tidy(() => tf.slice(x, [0, 0], [1, 1]).neg()).data(); // waits for all earlier work
        return performance.now() - begun;
      };
      await several(REPEATS);
      const ms = (await several(REPEATS)) / REPEATS;
      row[`${dtype} ms`] = Number(ms.toFixed(3));
      row[`${dtype} TFLOP/s`] = Number(((2 * m * outputs * cols) / ms / 1e9).toFixed(1));
      tf.dispose([x, weight.tensor]);
    }
    rows.push(row);
  }
  return rows;
}
