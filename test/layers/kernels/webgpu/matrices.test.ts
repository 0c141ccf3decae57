import * as tf from '@tensorflow/tfjs';
import {attend, attendGrad} from '../../../../layers/kernels/webgpu/attention/attention.ts';
import {gradKeyValue} from '../../../../layers/kernels/webgpu/attention/gradKeyValue.ts';
import {gradOperands} from '../../../../layers/kernels/webgpu/attention/gradOperands.ts';
import {packSlopes} from '../../../../layers/kernels/webgpu/attention/packSlopes.ts';
import {makeOctets, OCTETS} from '../../../../layers/kernels/webgpu/device/octets.ts';
import type {RowsView} from '../../../../layers/kernels/webgpu/device/rowsView.ts';
import {setTuning} from '../../../../layers/kernels/webgpu/device/tuning.ts';
import {capabilitiesOf, type WebGPUBackend} from '../../../../layers/kernels/webgpu/device/webgpuBackend.ts';
import {expandInto, project} from '../../../../layers/kernels/webgpu/products/lowRank.ts';
import {matrixFactorGradient} from '../../../../layers/kernels/webgpu/products/matrixFactorGradient.ts';
import {
  runMatrixProduct,
  TILINGS,
  tilingsFor,
} from '../../../../layers/kernels/webgpu/products/matrixProduct.ts';
import {
  fitsMatrixProject,
  matrixProject,
  packFactors,
} from '../../../../layers/kernels/webgpu/products/matrixProject.ts';
import {multiply} from '../../../../layers/kernels/webgpu/products/multiply.ts';
import {packRows} from '../../../../layers/kernels/webgpu/products/packRows.ts';
import type {Result} from '../../../../layers/kernels/webgpu/products/product.ts';
import {registerWebGPUKernels} from '../../../../layers/kernels/webgpu/registerWebGPUKernels.ts';
import {normalizeRows} from '../../../../layers/kernels/webgpu/stack/normalizeRows.ts';
import {usingWeight} from '../../../../layers/kernels/webgpu/weights/usingWeight.ts';
import {storedFormat} from '../../../../layers/kernels/webgpu/weights/weightFormat.ts';
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
import {Llama} from '../../../../src/index.ts';
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
    Object.assign(capabilitiesOf(backend), {hasMatrices: true, hasHalfSums: true, computeDtype: 'float16'});
  });

  // Heads of one size, because drivers take long to compile each kind.
  const PLAIN = {batch: 1, heads: 2, groups: 1, past: 0, dim: 16, scale: 1, common: 0, isPacked: false};
  const CASES = [
    {name: 'ragged, grouped, after cached keys', ...PLAIN, heads: 4, groups: 2, length: 37, past: 20},
    {name: 'packed and padded', ...PLAIN, batch: 2, length: 50, isPacked: true},
    {name: 'scores far above the first ones', ...PLAIN, heads: 1, length: 40, scale: 6},
    {name: 'keys that have a large part in common', ...PLAIN, heads: 1, length: 40, common: 50},
  ];

  const CHECKED = [TILINGS[0], TILINGS[TILINGS.length - 1]];

  test.each(CASES)(
    'attention: $name',
    async ({batch, heads, groups, length, past, dim, scale, common, isPacked}) => {
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
          normal([batch, groups, sourceLength, dim], 2, scale).add(common),
          normal([batch, groups, sourceLength, dim], 3),
        ],
        scale > 1 ? 3e-2 : 2e-3,
      );
    },
  );

  // Drivers take long to compile wide heads, so only the kernel of this test has them; those of 64 or 128 end SwiftShader.
  const GRAD = {length: 50, past: 0, window: 0, softCap: 0, isPacked: false, memory: 32768};
  test.each([
    {...GRAD, dim: 48, length: 37, past: 104},
    {...GRAD, dim: 48, length: 70, window: 40, isPacked: true},
    {...GRAD, dim: 80, softCap: 3},
    {...GRAD, dim: 96, length: 37, past: 44, isPacked: true},
    {...GRAD, dim: 96, memory: 16384},
  ])('gradients of key and value: %j', async ({length, past, dim, window, softCap, isPacked, memory}) => {
    const backend = tf.backend() as unknown as WebGPUBackend;
    const {limits} = backend.device;
    const own = new Proxy(limits, {
      get: (_, name) =>
        name === 'maxComputeWorkgroupStorageSize' ? memory : limits[name as keyof GPUSupportedLimits],
    });
    Object.defineProperty(backend.device, 'limits', {value: own, configurable: true});
    const [query, dy] = [1, 2].map((seed) => normal([2, 4, length, dim], seed));
    const value = normal([2, 2, length + past, dim], 3);
    const anyKey = normal([2, 2, length + past, dim], 4);
    const key = tf.sub(anyKey, tf.slice(anyKey, 0, [2, 2, 1, dim])); // as keys are packed
    const ids = [0, 1].map((b) =>
      Array.from({length: length + past}, (_, t) => Math.floor((t + 30 * b) / 33)),
    );
    const segments = isPacked ? tf.tensor2d(ids, undefined, 'int32') : undefined;
    const attrs = {causal: true, scale: dim ** -0.5, window, softCap};
    const call = {inputs: {query, key, value, segments}, attrs};
    const capabilities = capabilitiesOf(backend);
    capabilities.computeDtype = 'float32';
    const [y, logSums] = attend(backend, call);
    const expected = attendGrad(backend, {...call, inputs: {...call.inputs, dy, y, extra0: logSums}});
    capabilities.computeDtype = 'float16';
    const operands = gradOperands(backend, call, packSlopes(backend, dy, y, logSums), logSums);
    for (const [i, got] of gradKeyValue(backend, call, operands).entries()) {
      const [actual, wanted] = [got, expected[i + 1]].map((info) =>
        tf.engine().makeTensorFromTensorInfo(info),
      );
      await expectSame(actual, wanted, 2e-3);
    }
    Object.defineProperty(backend.device, 'limits', {value: limits, configurable: true});
  });

  test.each([
    {ranks: [8, 3, 16], cols: 48, hasScales: true, inOctets: false},
    {ranks: [20], cols: 1024, hasScales: false, inOctets: false},
    {ranks: [8], cols: 288, hasScales: true, inOctets: true},
  ])('narrow sides of low-rank paths: %j', async ({ranks, cols, hasScales, inOctets}) => {
    const backend = tf.backend() as unknown as WebGPUBackend;
    const x = normal([137, cols], 1, hasScales ? 1e-6 : 1) as tf.Tensor2D;
    const {halves, scales} = packRows(backend, x, {inOctets});
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

  /** Returns the float32 of packed rows. */
  const widened = (halves: RowsView, scales?: tf.TensorInfo) => {
    const backend = tf.backend() as unknown as WebGPUBackend;
    const rows = project(backend, {halves, scales}, tf.eye(2 * halves.shape[1]), 1);
    return tf.engine().makeTensorFromTensorInfo(rows);
  };

  test('products of octets, of every kind of result', async () => {
    const backend = tf.backend() as unknown as WebGPUBackend;
    const [m, k, n] = [150, 96, 136];
    const x = normal([m, k], 1, 1e-3) as tf.Tensor2D;
    const w = normal([k, n], 2) as tf.Tensor2D;
    const packed = packRows(backend, x, {inOctets: true});
    await expectSame(widened(packed.halves, packed.scales), x.clone(), 1e-3);
    const weight = storedFormat({parts: [pack16(w, 'float16')], rows: k}, 'float16', n);
    const product = {x: packed.halves, weight, rows: k, cols: n, transposeWeight: false};
    const [low, factor] = [normal([m, 8], 3, 1e-3), normal([8, n], 4)] as tf.Tensor2D[];
    const update = {low, factor, isTransposed: false};
    const sum = tf.matMul(x, w);
    const withPath = tf.tidy(() => tf.add(sum, tf.mul(low.expandDims(2), factor.expandDims(0)).sum(1)));
    for (const expected of [sum, withPath]) {
      const options = expected === sum ? {} : {update};
      const into = (result: Result) => {
        runMatrixProduct(backend, product, result, packed, options);
        return result.y;
      };
      await expectSame(into({y: tf.zeros([m, n]), kind: 'float32'}) as tf.Tensor, expected.clone(), 1e-3);
      await expectSame(
        into({y: tf.ones([m, n]), kind: 'added'}) as tf.Tensor,
        tf.tidy(() => tf.add(expected, 1)),
        1e-3,
      );
      for (const y of [tf.zeros([m, n / 2], 'int32'), makeOctets(backend, m, n)])
        await expectSame(widened(into({y, kind: 'halves'}), packed.scales), expected.clone(), 1e-3);
    }
    const parts = tf.zeros([2, m, n]);
    runMatrixProduct(backend, product, {y: parts, kind: 'float32'}, packed, {splits: 2});
    await expectSame(
      tf.tidy(() => parts.sum(0)),
      sum.clone(),
      1e-3,
    );
    const y = makeOctets(backend, m, n);
    const result = {y, kind: 'halves'} as const;
    runMatrixProduct(backend, product, result, packed);
    expandInto(backend, low, factor, result, packed.scales);
    await expectSame(widened(y, packed.scales), withPath, 1e-3);
  });

  test('octets of normalized rows, and gradients of factors from them', async () => {
    const backend = tf.backend() as unknown as WebGPUBackend;
    const [rows, cols] = [150, 288];
    const x = normal([rows, cols], 1) as tf.Tensor2D;
    const norm = {weight: normal([cols], 2) as tf.Tensor1D, epsilon: 1e-5};
    const octets = makeOctets(backend, rows, cols);
    const plain = tf.zeros([rows, cols / 2], 'int32');
    for (const y of [octets, plain]) normalizeRows(backend, x, norm, y);
    await expectSame(widened(octets), widened(plain), 1e-3);
    const low = normal([rows, 8], 3, 1e-6) as tf.Tensor2D;
    for (const isTransposed of [true, false]) {
      const [got, expected] = [octets, plain].map((halves) =>
        tf.engine().makeTensorFromTensorInfo(matrixFactorGradient(backend, low, {halves}, isTransposed)),
      );
      await expectSame(got, expected, 1e-3);
    }
  });

  test('gradients of two blocks in octets are those of rows', async () => {
    const usual = OCTETS.leastRows;
    const capabilities = capabilitiesOf(tf.backend() as unknown as WebGPUBackend);
    capabilities.hasHalfSums = false; // attention without matrices: emulated heads of 64 crash the driver
    registerWebGPUKernels('float16');
    const config = {
      ...{vocabSize: 32, hiddenSize: 64, intermediateSize: 96, numHiddenLayers: 2, headDim: 64},
      ...{numAttentionHeads: 2, numKeyValueHeads: 1, tieWordEmbeddings: true},
    };
    const model = Llama.fromConfig(config, {dtype: 'float16', seed: 1});
    model.applyLoRA({rank: 8, targetModules: 'all-linear', seed: 1});
    for (const [i, [name, parameter]] of [...model.trainableParameters()].entries()) {
      if (!name.includes('lora_B')) continue; // zeros at first, and then A has no gradient
      const value = normal(parameter.shape as number[], i + 1, 0.02);
      (tf.engine().registeredVariables[parameter.name] as tf.Variable).assign(value);
      value.dispose();
    }
    const inputIds = [0, 1].map((b) => Array.from({length: 70}, (_, t) => (b + t * 7) % 32));
    const gradientsOf = async (leastRows: number, checkpointing: boolean | 'offload') => {
      OCTETS.leastRows = leastRows;
      model.gradientCheckpointing = checkpointing;
      return (await model.computeGradients({inputIds, labels: inputIds})).gradients;
    };
    const expected = await gradientsOf(Number.POSITIVE_INFINITY, true);
    for (const checkpointing of [true, false, 'offload'] as const)
      for (const [name, gradient] of Object.entries(await gradientsOf(0, checkpointing)))
        await expectSame(gradient, expected[name].clone(), 2e-3);
    tf.dispose(expected);
    model.dispose();
    OCTETS.leastRows = usual;
    registerWebGPUKernels('float32');
    capabilities.hasHalfSums = true;
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
