import * as tf from '@tensorflow/tfjs';
import {linear} from '../../../../layers/ops/linear.ts';
import {packFloat32Rows} from '../../../../quant/float16.ts';
import {useBackend} from '../../../../src/training/backends/useBackend.ts';
import {expectClose} from '../../../expectClose.ts';

// One thread means memory that is not shared: it moves to another buffer whenever it grows.
describe('wasm with one thread', () => {
  test('products stay correct when the heap grows', async () => {
    const {features} = await useBackend('wasm', {threads: 1});
    expect(features).toContain('1 thread');
    const a = tf.linspace(-1, 1, 35 * 40).reshape([35, 40]) as tf.Tensor2D;
    const weight = tf.linspace(0, 3, 21 * 40).reshape([21, 40]);
    const first = tf.matMul(a, weight, false, true);
    const heap = () => (tf.backend() as unknown as {wasm: {HEAPU8: Uint8Array}}).wasm.HEAPU8.byteLength;
    const before = heap();
    const large = tf.zeros([1 << 24]);
    expect(heap()).toBeGreaterThan(before);
    expectClose(tf.matMul(a, weight, false, true), first, {relative: 0});
    const packed = packFloat32Rows(weight.dataSync() as Float32Array, 21, 40, 'bfloat16');
    const tensor = tf.tensor2d(packed, [21, 20], 'int32');
    expectClose(linear(a, {tensor, dtype: 'bfloat16', rows: 21, cols: 40}), first, {relative: 0.01});
    tf.dispose([a, weight, first, large, tensor]);
  });
});
