import * as tf from '@tensorflow/tfjs';
import {attend} from '../../layers/kernels/webgpu/attention/attention.ts';
import {gradKeyValue} from '../../layers/kernels/webgpu/attention/gradKeyValue.ts';
import {gradOperands} from '../../layers/kernels/webgpu/attention/gradOperands.ts';
import {gradQuery} from '../../layers/kernels/webgpu/attention/gradQuery.ts';
import {packSlopes} from '../../layers/kernels/webgpu/attention/packSlopes.ts';
import type {WebGPUBackend} from '../../layers/kernels/webgpu/device/webgpuBackend.ts';
import {compileShaders} from '../../layers/ops/compileShaders.ts';
import {kernelTimes} from './kernelTimes.ts';

/** Sizes of attention: those of steps of 1B with 8192 tokens and with one long sequence, and of 3B. */
export const ATTENTION_SHAPES = [
  {batch: 4, length: 2048, heads: 32, groups: 8, dim: 64, repeats: 16},
  {batch: 1, length: 32768, heads: 32, groups: 8, dim: 64, repeats: 3},
  {batch: 2, length: 4096, heads: 24, groups: 8, dim: 128, repeats: 10},
];

/** Products of one causal attention, of `length² · dim` multiplications each, halved. */
const PRODUCTS: Record<string, number> = {
  MatrixAttention: 2,
  MatrixAttentionGradQuery: 3,
  MatrixAttentionGradKeyValue: 4,
};

/** Measures the kernels of causal attention and its gradients in TFLOP/s, by GPU time. */
export async function measureAttention(
  shapes = ATTENTION_SHAPES,
): Promise<Record<string, string | number>[]> {
  const result: Record<string, string | number>[] = [];
  const backend = tf.backend() as unknown as WebGPUBackend;
  for (const {batch, length, heads, groups, dim, repeats} of shapes) {
    const make = (count: number, seed: number) =>
      tf.randomNormal([batch, count, 256, dim], 0, 1, 'float32', seed).tile([1, 1, length / 256, 1]);
    const [query, key, value, dy] = [make(heads, 1), make(groups, 2), make(groups, 3), make(heads, 4)];
    const attrs = {causal: true, scale: dim ** -0.5, window: 0, softCap: 0};
    const call = {inputs: {query, key, value}, attrs};
    const once = () => {
      const [y, logSums] = attend(backend, call);
      const operands = gradOperands(backend, call, packSlopes(backend, dy, y, logSums), logSums);
      const gradients = [...gradKeyValue(backend, call, operands), gradQuery(backend, call, operands)];
      for (const {dataId} of [...Object.values(operands), ...gradients, y]) backend.disposeData(dataId);
    };
    await compileShaders(once);
    for (let i = 0; i < repeats; i++) once(); // the card's clock only rises under load
    await backend.queue.onSubmittedWorkDone();
    const profile = await kernelTimes(async () => {
      for (let i = 0; i < repeats; i++) once();
      await backend.queue.onSubmittedWorkDone();
    });
    const row: Record<string, string | number> = {
      attention: `${batch} × ${length}, ${heads} heads of ${dim}`,
    };
    for (const [name, products] of Object.entries(PRODUCTS)) {
      const {milliseconds = Number.NaN, count = 1} = profile.find(({kernel}) => kernel === name) ?? {};
      const flops = products * batch * heads * length ** 2 * dim; // 2 a multiplication, half of them hidden
      row[name] =
        `${(milliseconds / count).toFixed(2)} ms, ${((flops * count) / milliseconds / 1e9).toFixed(0)}`;
    }
    result.push(row);
    tf.dispose([query, key, value, dy]);
  }
  return result;
}
