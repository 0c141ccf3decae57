import * as tf from '@tensorflow/tfjs';
import {runOps} from '../../../../layers/kernels/tensorflow/device/runOps.ts';
import {DataType} from '../../../../layers/kernels/tensorflow/device/tensorflowBackend.ts';
import {attention} from '../../../../layers/ops/attention.ts';
import {causalBias} from '../../../../layers/ops/causalBias.ts';
import {dequantizeRows} from '../../../../layers/ops/dequantizeRows.ts';
import {linear} from '../../../../layers/ops/linear.ts';
import {pack16} from '../../../../layers/ops/pack16.ts';
import {quantizedMatMul} from '../../../../layers/ops/quantizedMatMul.ts';
import {storeQuantized} from '../../../../layers/ops/quantizedMatrix.ts';
import {rmsNorm} from '../../../../layers/ops/rmsNorm.ts';
import {storedMatMul} from '../../../../layers/ops/storedMatMul.ts';
import {unpackMatrix} from '../../../../layers/ops/unpackMatrix.ts';
import {quantizeFP4, quantizeNF4} from '../../../../quant/blockwise/fourBit.ts';
import {quantizeInt8} from '../../../../quant/int8.ts';
import type {MatrixShape, QuantizedTensor} from '../../../../quant/quantizedTensor.ts';
import {useBackend} from '../../../../src/training/backends/useBackend.ts';
import {Llama} from '../../../../src/training/llama.ts';
import {AdamW} from '../../../../src/training/optimizers/adamW.ts';
import {expectNoLeak} from '../../../describeEachBackend.ts';
import {expectClose} from '../../../expectClose.ts';
import {tinyConfig, tinyIds} from '../../../models/tinyLlama.ts';
import {expectSameFunction, normal} from '../../ops/expectSameFunction.ts';
import {choose, describeTensorFlow, tensorflowBackend} from './tensorflowOnly.ts';

const FORMATS: [string, (values: Float32Array, shape: MatrixShape) => QuantizedTensor][] = [
  ['nf4', (values, shape) => quantizeNF4(values, shape)],
  ['nf4, double-quantized', (values, shape) => quantizeNF4(values, shape, {doubleQuant: true})],
  ['fp4', (values, shape) => quantizeFP4(values, shape)],
  ['int8', (values, shape) => quantizeInt8(values, shape)],
  ['int8 with outliers', (values, shape) => quantizeInt8(values, shape, {threshold: 2.5})],
];

const values = (shape: number[], seed: number) => {
  const tensor = normal(shape as [number, number], seed);
  const array = tensor.dataSync() as Float32Array;
  tensor.dispose();
  return array;
};

describeTensorFlow('attention in chunks', () => {
  // 4 × 1100 × 1100 scores of a head are too many for one chunk, and so are three heads of 4 × 700 × 700.
  test.each([
    ['of queries', [1, 4, 1100, 8], [1, 1, 1100, 8]],
    ['of heads', [3, 4, 700, 8], [3, 1, 700, 8]],
    ['of queries after cached keys', [1, 4, 900, 8], [1, 1, 1300, 8]],
  ])('%s equals the whole matrix', (_, queryShape, keyShape) => {
    const [length, sourceLength] = [queryShape[2], keyShape[2]];
    const bias = causalBias(length, sourceLength) as tf.Tensor4D;
    expectSameFunction(
      (q, k, v) => attention(q, k, v, {causal: true}),
      (q, k, v) => attention(q, k, v, {bias}),
      [normal(queryShape as never, 1), normal(keyShape as never, 2), normal(keyShape as never, 3)],
      2e-5,
    );
  });

  test('of queries, of packed and padded sequences', () => {
    const [length, dim] = [1100, 8];
    const numbers = Int32Array.from({length}, (_, t) => (t < 20 ? 0 : t < 600 ? 1 : 2));
    const segments = tf.tensor2d(numbers, [1, length], 'int32');
    const bias = causalBias(length, length, segments) as tf.Tensor4D;
    const seen = (y: tf.Tensor4D) => y.slice([0, 0, 20, 0], [-1, -1, -1, -1]);
    expectSameFunction(
      (q, k, v) => tf.tidy(() => seen(attention(q, k, v, {causal: true, segments}))),
      (q, k, v) => tf.tidy(() => seen(attention(q, k, v, {bias}))),
      [normal([1, 4, length, dim], 1), normal([1, 1, length, dim], 2), normal([1, 1, length, dim], 3)],
      2e-5,
    );
  });
});

describeTensorFlow('products with stored weights', () => {
  afterAll(() => choose('float32'));

  test.each(['bfloat16', 'float16'] as const)('of %s, in several tiles', (dtype) => {
    const [rows, cols] = [2100, 8192]; // a tile holds 2048 rows
    const exact = tf.tile(normal([rows / 100, cols], 1), [100, 1]) as tf.Tensor2D;
    const weight = {tensor: pack16(exact, dtype), dtype, rows, cols};
    const widened = unpackMatrix(weight);
    expectSameFunction(
      (x) => linear(x, weight),
      (x) => tf.matMul(x, widened, false, true),
      [normal([3, cols], 2)],
    );
  });

  test.each(FORMATS)('of %s equal products with the dequantized weight', (_, quantize) => {
    for (const [count, rows, cols] of [
      [5, 64, 40],
      [6, 7, 13],
    ]) {
      const weight = storeQuantized(quantize(values([rows, cols], 3), [rows, cols]));
      const exact = dequantizeRows(weight);
      const [x, dy] = [normal([count, cols], 4), normal([count, rows], 5)] as tf.Tensor2D[];
      for (const tileElements of [undefined, 3 * cols]) {
        expectClose(quantizedMatMul(x, weight, true, tileElements), tf.matMul(x, exact, false, true));
        expectClose(quantizedMatMul(dy, weight, false, tileElements), tf.matMul(dy, exact));
      }
      expectNoLeak(() => quantizedMatMul(x, weight, true));
    }
  });

  test.each(FORMATS)('rows of %s have the same bits as on the host', async (_, quantize) => {
    for (const shape of [
      [24, 40],
      [7, 13],
    ] as MatrixShape[]) {
      const matrix = quantize(values(shape as never, 6), shape);
      const got = dequantizeRows(storeQuantized(matrix), 2, 6).dataSync();
      expect(got).toEqual(matrix.dequantizeRows(2, 6));
    }
  });

  test('in bfloat16 round only operands', async () => {
    const [rows, cols] = [48, 64];
    const matrix = normal([rows, cols], 1) as tf.Tensor2D;
    const weight = {tensor: pack16(matrix, 'bfloat16'), dtype: 'bfloat16' as const, rows, cols};
    const [exact, x] = [unpackMatrix(weight), normal([9, cols], 2) as tf.Tensor2D];
    const rounded = unpackMatrix({tensor: pack16(x, 'bfloat16'), dtype: 'bfloat16', rows: 9, cols});
    const report = await useBackend('tensorflow', {computeDtype: 'bfloat16'});
    expect(report.features.join()).toMatch(/products (in|of) bfloat16/);
    const y = storedMatMul(x, weight, true);
    await choose('float32');
    expectClose(y, tf.matMul(rounded, exact, false, true), {relative: 2 ** -8}); // the result is rounded too
    const difference = tf.max(tf.abs(tf.sub(y, storedMatMul(x, weight, true)))).dataSync()[0];
    expect(difference).toBeGreaterThan(0);
    const nearest = await useBackend('tensorflow', {computeDtype: 'float16'});
    expect(nearest).toMatchObject({computeDtype: 'bfloat16'});
    expect(String(nearest)).toContain('bfloat16 is the nearest type to float16');
    await choose('float32');
  });
});

describeTensorFlow('handles', () => {
  test('are freed when a kernel fails', () => {
    const x = tf.tensor1d([1, 2, 3]).add(1);
    const backend = tensorflowBackend();
    const before = backend.getNumOfTFTensors();
    expect(() =>
      runOps(backend, {x}, (ops, handles) => {
        const halves = ops.scope(() => ops.cast(handles.x, DataType.bfloat16));
        return [ops.matMul(halves, handles.x)];
      }),
    ).toThrow();
    expect(backend.getNumOfTFTensors()).toBe(before);
  });

  test('stay the same in number over training steps, with 4-bit and 16-bit weights', async () => {
    const model = Llama.fromConfig(
      {...tinyConfig, hiddenSize: 64, intermediateSize: 128},
      {dtype: 'bfloat16'},
    );
    await model.quantize({type: 'nf4', doubleQuant: true});
    model.applyLoRA({rank: 2});
    model.compile({optimizer: new AdamW({learningRate: 1e-3})});
    const counts: number[] = [];
    for (let step = 0; step < 10; step++) {
      await model.trainOnBatch({inputIds: tinyIds, labels: tinyIds});
      counts.push(tensorflowBackend().getNumOfTFTensors());
    }
    expect(new Set(counts.slice(5)).size).toBe(1);
    model.dispose();
  });
});

describeTensorFlow('rmsNorm with a frozen weight', () => {
  test('equals the composed one', () => {
    const weight = tf.variable(normal([12], 1), false);
    expectSameFunction(
      (x) => rmsNorm(x, weight),
      (x) => tf.tidy(() => x.mul(x.square().mean(-1, true).add(1e-5).rsqrt()).mul(weight)),
      [normal([5, 12], 2)],
    );
  });
});

describeTensorFlow('useBackend', () => {
  test('reports CPU or card, and the TensorFlow version', async () => {
    const report = await useBackend('tensorflow');
    const {isUsingGpuDevice, binding} = tensorflowBackend();
    expect(report.features.slice(0, 2)).toEqual([
      isUsingGpuDevice ? 'GPU' : 'CPU',
      `TensorFlow ${binding.TF_Version}`,
    ]);
    expect(String(report)).toContain('backend tensorflow (requested): ');
  });
});
