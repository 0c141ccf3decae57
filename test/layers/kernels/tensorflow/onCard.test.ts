import * as tf from '@tensorflow/tfjs';
import {keepOnCard} from '../../../../layers/kernels/tensorflow/device/keepOnCard.ts';
import type {TensorFlowBackend} from '../../../../layers/kernels/tensorflow/device/tensorflowBackend.ts';
import {attention} from '../../../../layers/ops/attention.ts';
import {causalBias} from '../../../../layers/ops/causalBias.ts';
import {dequantizeRows} from '../../../../layers/ops/dequantizeRows.ts';
import {embedding} from '../../../../layers/ops/embedding.ts';
import {pack16} from '../../../../layers/ops/pack16.ts';
import {quantizedMatMul} from '../../../../layers/ops/quantizedMatMul.ts';
import {storeQuantized} from '../../../../layers/ops/quantizedMatrix.ts';
import {storedMatMul} from '../../../../layers/ops/storedMatMul.ts';
import {quantizeNF4} from '../../../../quant/blockwise/fourBit.ts';
import {quantizeInt8} from '../../../../quant/int8.ts';
import {expectClose} from '../../../expectClose.ts';
import {expectSameFunction, normal} from '../../ops/expectSameFunction.ts';
import {describeTensorFlow, tensorflowBackend} from './tensorflowOnly.ts';

/** Does what kernels do on a card, but on the CPU: the same ops on another device. `bench/gpu` runs them on a card. */
describeTensorFlow('as on a card', () => {
  const setOnCard = (isOn: boolean) => {
    (tensorflowBackend() as {isUsingGpuDevice: boolean}).isUsingGpuDevice = isOn;
  };
  beforeAll(() => setOnCard(true));
  afterAll(() => setOnCard(false));

  const idOf = (tensor: tf.Tensor) => tensorflowBackend().tensorMap.get(tensor.dataId).id;

  test('moves a packed weight once and keeps its bits', () => {
    const bits = Int32Array.from({length: 24}, (_, i) => (i * 0x9e3779b9) | 0);
    const packed = tf.tensor2d(bits, [4, 6], 'int32');
    const backend: TensorFlowBackend = tensorflowBackend();
    backend.getInputTensorIds([packed]); // uploads it
    const [before, count] = [idOf(packed), backend.getNumOfTFTensors()];
    keepOnCard(backend, {packed});
    const moved = idOf(packed);
    expect(moved).not.toBe(before);
    keepOnCard(backend, {packed});
    expect(idOf(packed)).toBe(moved);
    expect(packed.dataSync()).toEqual(bits);
    expect(backend.getNumOfTFTensors()).toBe(count);
    packed.dispose();
    expect(backend.getNumOfTFTensors()).toBe(count - 1);
  });

  test.each(['float16', 'bfloat16'] as const)('%s weights are multiplied and read', (dtype) => {
    for (const [rows, cols] of [
      [30, 16],
      [7, 13],
    ]) {
      const exact = tf.round(normal([rows, cols], 1)) as tf.Tensor2D; // so that rounding loses nothing
      const weight = {tensor: pack16(exact, dtype), dtype, rows, cols};
      const ids = tf.tensor1d([2, 0, 2], 'int32');
      const x = normal([5, cols], 2) as tf.Tensor2D;
      expectClose(storedMatMul(x, weight, true), tf.matMul(x, exact, false, true));
      expectClose(embedding(ids, weight), tf.gather(exact, ids), {relative: 0});
    }
  });

  test('views of a weight are freed with it', () => {
    const x = normal([3, 64], 2) as tf.Tensor2D;
    const values = normal([32, 64], 1).dataSync() as Float32Array;
    const {getNumOfTFTensors} = tensorflowBackend();
    const count = () => getNumOfTFTensors.call(tensorflowBackend());
    const run = () => {
      const half = {
        tensor: pack16(tf.tensor2d(values, [32, 64]), 'float16'),
        dtype: 'float16' as const,
        rows: 32,
        cols: 64,
      };
      const quantized = storeQuantized(quantizeNF4(values, [32, 64]));
      tf.tidy(() => {
        storedMatMul(x, half, true);
        quantizedMatMul(x, quantized, true);
      });
      tf.dispose([half.tensor, ...Object.values(quantized.tensors)]);
    };
    tf.tidy(run); // makes what is kept permanently
    const before = count();
    tf.tidy(run);
    expect(count()).toBe(before);
  });

  test.each([
    ['nf4', (values: Float32Array) => quantizeNF4(values, [256, 64])],
    ['nf4, double-quantized', (values: Float32Array) => quantizeNF4(values, [256, 64], {doubleQuant: true})],
    ['int8 with outliers', (values: Float32Array) => quantizeInt8(values, [256, 64], {threshold: 2.5})],
  ])('rows of %s have the same bits as on the host', (_, quantize) => {
    const matrix = quantize(normal([256, 64], 6).dataSync() as Float32Array);
    const stored = storeQuantized(matrix);
    expect(dequantizeRows(stored).dataSync()).toEqual(matrix.dequantizeRows(0, 256));
    expect(dequantizeRows(stored, 3, 9).dataSync()).toEqual(matrix.dequantizeRows(3, 9));
  });

  test('attention takes all heads in one op, even with packed sequences', () => {
    const [batch, length] = [2, 12];
    const numbers = Int32Array.from({length: batch * length}, (_, i) => 1 + Math.floor(i / 5));
    for (const segments of [undefined, tf.tensor2d(numbers, [batch, length], 'int32')]) {
      const bias = causalBias(length, length, segments) as tf.Tensor4D;
      expectSameFunction(
        (q, k, v) => attention(q, k, v, {causal: true, segments}),
        (q, k, v) => attention(q, k, v, {bias}),
        [
          normal([batch, 6, length, 4], 1),
          normal([batch, 2, length, 4], 2),
          normal([batch, 2, length, 4], 3),
        ],
        2e-5,
      );
    }
  });
});
