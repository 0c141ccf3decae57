import * as tf from '@tensorflow/tfjs';
import {setTuning} from '../../../../layers/kernels/webgpu/device/tuning.ts';
import {capabilitiesOf, type WebGPUBackend} from '../../../../layers/kernels/webgpu/device/webgpuBackend.ts';
import {TILINGS, tilingsFor} from '../../../../layers/kernels/webgpu/products/matrixProduct.ts';
import {
  fitsMatrixProject,
  matrixProject,
  packFactors,
} from '../../../../layers/kernels/webgpu/products/matrixProject.ts';
import {multiply} from '../../../../layers/kernels/webgpu/products/multiply.ts';
import {packRows} from '../../../../layers/kernels/webgpu/products/packRows.ts';
import {usingWeight} from '../../../../layers/kernels/webgpu/weights/usingWeight.ts';
import {attention} from '../../../../layers/ops/attention.ts';
import {causalBias} from '../../../../layers/ops/causalBias.ts';
import {compileShaders} from '../../../../layers/ops/compileShaders.ts';
import {dequantizeRows} from '../../../../layers/ops/dequantizeRows.ts';
import {pack16} from '../../../../layers/ops/pack16.ts';
import {storeQuantized} from '../../../../layers/ops/quantizedMatrix.ts';
import {storedMatMul} from '../../../../layers/ops/storedMatMul.ts';
import {
  attributesOf,
  isQuantized,
  type StoredMatrix,
  tensorsOf,
} from '../../../../layers/ops/storedMatrix.ts';
import {unpackMatrix} from '../../../../layers/ops/unpackMatrix.ts';
import {quantizeNF4} from '../../../../quant/blockwise/fourBit.ts';
import {emulateMatrices} from './emulatedMatrices.ts';
import {describeWebGPU, expectSame, expectSameFunction, normal} from './webgpuOnly.ts';

/**
 * Cards multiply subgroup matrices; software drivers do not, so here threads emulate them. A driver takes more than ten
 * minutes for it, so it runs only with `TFJS_LORA_TEST_MATRICES=1`. bench/gpu checks a card.
 */
const describeMatrices: typeof describeWebGPU =
  process.env.TFJS_LORA_TEST_MATRICES === '1'
    ? describeWebGPU
    : (name) => describe.skip(name, () => test.todo('is slow'));

describeMatrices('kernels with subgroup matrices, emulated', () => {
  beforeAll(() => {
    const backend = tf.backend() as unknown as WebGPUBackend;
    const {device} = backend;
    const createShaderModule = device.createShaderModule.bind(device);
    device.createShaderModule = (descriptor) =>
      createShaderModule({...descriptor, code: emulateMatrices(descriptor.code)});
    Object.assign(capabilitiesOf(backend), {hasMatrices: true, computeDtype: 'float16'});
  });

  // Heads of one size, because drivers take long to compile each kind.
  const PLAIN = {batch: 1, heads: 2, groups: 1, past: 0, dim: 16, scale: 1, isPacked: false};
  const CASES = [
    {name: 'ragged, grouped, after cached keys', ...PLAIN, heads: 4, groups: 2, length: 37, past: 20},
    {name: 'packed and padded', ...PLAIN, batch: 2, length: 50, isPacked: true},
    {name: 'scores far above the first ones', ...PLAIN, heads: 1, length: 40, scale: 6},
  ];

  const CHECKED = [TILINGS[0], TILINGS[TILINGS.length - 1]];

  test.each(CASES)('attention: $name', async ({batch, heads, groups, length, past, dim, scale, isPacked}) => {
    const sourceLength = length + past;
    const ids = Array.from({length: batch}, (_, b) =>
      Array.from({length}, (_, t) => (b === 0 ? 1 + Math.floor(t / 33) : t < 7 ? 0 : 1)),
    );
    const segments = isPacked ? tf.tensor2d(ids, undefined, 'int32') : undefined;
    const bias = causalBias(length, sourceLength, segments);
    const real = tf.tensor4d(
      ids.flat().map((id) => (isPacked && id === 0 ? 0 : 1)),
      [batch, 1, length, 1],
    );
    await expectSameFunction(
      (q, k, v) => tf.tidy(() => attention(q, k, v, {causal: true, segments}).mul(real)),
      (q, k, v) => tf.tidy(() => attention(q, k, v, {bias}).mul(real)),
      [
        normal([batch, heads, length, dim], 1, scale),
        normal([batch, groups, sourceLength, dim], 2, scale),
        normal([batch, groups, sourceLength, dim], 3),
      ],
      scale > 1 ? 3e-2 : 2e-3,
    );
  });

  test.each([
    {ranks: [8, 3, 16], cols: 48, hasScales: true},
    {ranks: [20], cols: 1024, hasScales: false},
  ])('narrow sides of low-rank paths of ranks $ranks', async ({ranks, cols, hasScales}) => {
    const backend = tf.backend() as unknown as WebGPUBackend;
    const x = normal([37, cols], 1, hasScales ? 1e-6 : 1) as tf.Tensor2D;
    const {halves, scales} = packRows(backend, x);
    const given = {halves, scales: hasScales ? scales : undefined};
    const factors = ranks.map((rank, i) => ({
      tensor: normal(i === 1 ? [cols, rank] : [rank, cols], 2 + i, 1e-5) as tf.Tensor2D,
      isTransposed: i === 1,
      scale: i + 2,
    }));
    expect(fitsMatrixProject(backend, factors)).toBe(true);
    const {packs, tensors} = packFactors(backend, [factors]);
    const lows = matrixProject(backend, given, packs[0]);
    for (const {dataId} of tensors) backend.disposeData(dataId);
    for (const [i, {tensor, isTransposed, scale}] of factors.entries()) {
      const low = tf.engine().makeTensorFromTensorInfo(lows[i]);
      const rowScales = tf.engine().makeTensorFromTensorInfo(scales);
      await expectSame(
        hasScales ? low : tf.mul(low, rowScales.expandDims(1)),
        tf.tidy(() => tf.matMul(x, tensor, false, !isTransposed).mul(scale)),
        2e-3,
      );
    }
  });

  test.each(['nf4', 'float16', 'bfloat16'] as const)(
    'a %s weight as for many rows, transposed or not',
    async (dtype) => {
      const backend = tf.backend() as unknown as WebGPUBackend;
      const [rows, cols] = [264, 72];
      const values = normal([rows, cols], 4) as tf.Tensor2D;
      const weight: StoredMatrix =
        dtype === 'nf4'
          ? storeQuantized(quantizeNF4((await values.data()) as Float32Array, [rows, cols]))
          : {tensor: pack16(values, dtype), dtype, rows, cols};
      const plain = isQuantized(weight) ? dequantizeRows(weight) : unpackMatrix(weight);
      for (const transposeWeight of [true, false]) {
        const x = normal([20, transposeWeight ? cols : rows], 3) as tf.Tensor2D;
        const use = {rowCount: 4096, transposeWeight};
        const y = usingWeight(backend, tensorsOf(weight), attributesOf(weight), use, (multiplier) => {
          expect(multiplier.transposeWeight).toBe(false); // the transposed weight is written out
          return multiply(backend, {x, ...multiplier});
        });
        const expected = tf.tidy(() => tf.matMul(x, plain, false, transposeWeight));
        await expectSame(tf.engine().makeTensorFromTensorInfo(y), expected, 2e-3);
      }
    },
  );

  test.each(CHECKED.map((tiling) => ({tiles: Object.values(tiling).join(), tiling})))(
    'product in tiles of $tiles',
    async ({tiling}) => {
      const backend = tf.backend() as unknown as WebGPUBackend;
      await setTuning(backend, {
        device: 'test',
        store: {load: async () => ({}), save: async () => {}},
        measure: async (_, calls) =>
          calls.map((_call, i) => (i === tilingsFor(20, 136).indexOf(tiling) ? 1 : 2)),
      });
      for (const transposeWeight of [true, false]) {
        const [m, rows, cols] = transposeWeight ? [20, 136, 72] : [20, 72, 136];
        const weight = {
          tensor: pack16(normal([rows, cols], 7) as tf.Tensor2D, 'float16'),
          dtype: 'float16' as const,
          rows,
          cols,
        };
        const x = normal([m, transposeWeight ? cols : rows], 8, 1e-3) as tf.Tensor2D;
        const run = () => storedMatMul(x, weight, transposeWeight);
        await compileShaders(() => void run());
        await expectSame(
          run(),
          tf.tidy(() => tf.matMul(x, unpackMatrix(weight), false, transposeWeight)),
          1e-3,
        );
      }
      await setTuning(backend, undefined);
    },
  );
});
