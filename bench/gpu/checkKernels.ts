import * as tf from '@tensorflow/tfjs';
import {makeOctets} from '../../layers/kernels/webgpu/device/octets.ts';
import type {RowsView} from '../../layers/kernels/webgpu/device/rowsView.ts';
import {setTuning} from '../../layers/kernels/webgpu/device/tuning.ts';
import {capabilitiesOf, type WebGPUBackend} from '../../layers/kernels/webgpu/device/webgpuBackend.ts';
import {project} from '../../layers/kernels/webgpu/products/lowRank.ts';
import {matrixFactorGradient} from '../../layers/kernels/webgpu/products/matrixFactorGradient.ts';
import {runMatrixProduct, TILINGS} from '../../layers/kernels/webgpu/products/matrixProduct.ts';
import {matrixProject, packFactors} from '../../layers/kernels/webgpu/products/matrixProject.ts';
import {packRows} from '../../layers/kernels/webgpu/products/packRows.ts';
import {storedFormat} from '../../layers/kernels/webgpu/weights/weightFormat.ts';
import {attention} from '../../layers/ops/attention.ts';
import {causalBias} from '../../layers/ops/causalBias.ts';
import {compileShaders} from '../../layers/ops/compileShaders.ts';
import {dequantizeRows} from '../../layers/ops/dequantizeRows.ts';
import {loraMatMul} from '../../layers/ops/loraMatMul.ts';
import {quantizedMatMul} from '../../layers/ops/quantizedMatMul.ts';
import {storeQuantized} from '../../layers/ops/quantizedMatrix.ts';
import {storedMatMul} from '../../layers/ops/storedMatMul.ts';
import {unpackMatrix} from '../../layers/ops/unpackMatrix.ts';
import {quantizeNF4} from '../../quant/index.ts';
import {randomFloat16} from './randomWeights.ts';

type Row = Record<string, string | number>;
type Compute = (...inputs: tf.Tensor[]) => tf.Tensor;

/** Compares results with those that are expected, which it disposes with them, and keeps the errors. */
class Checks {
  readonly rows: Row[] = [];

  constructor(private readonly computeDtype: string) {}

  /** Adds the largest difference, divided by the largest expected magnitude. */
  async add(what: string, got: tf.Tensor, expected: tf.Tensor): Promise<void> {
    const error = tf.tidy(() => tf.div(tf.max(tf.abs(tf.sub(got, expected))), tf.max(tf.abs(expected))));
    const [value] = await error.data();
    tf.dispose([error, got, expected]);
    this.rows.push({what, computeDtype: this.computeDtype, error: Number(value.toExponential(2))});
  }

  /** Adds the errors of a function's value and of its gradients. */
  async addFunction(
    what: string,
    [fused, composed]: [Compute, Compute],
    named: Record<string, tf.Tensor>,
    dy: tf.Tensor,
  ): Promise<void> {
    const inputs = Object.values(named);
    await this.add(
      what,
      tf.tidy(() => fused(...inputs)),
      tf.tidy(() => composed(...inputs)),
    );
    const got = tf.grads(fused)(inputs, dy);
    const expected = tf.grads(composed)(inputs, dy);
    for (const [i, name] of Object.keys(named).entries())
      await this.add(`${what}: d ${name}`, got[i], expected[i]);
  }

  /** Adds the errors of products with a float16 weight and with its transpose. */
  async addProducts(
    [m, outputs, cols]: number[],
    what: string,
    {magnitude = 1, prepare}: {magnitude?: number; prepare?: (run: () => tf.Tensor) => Promise<void>} = {},
  ): Promise<void> {
    for (const transposeWeight of [true, false]) {
      const weight = float16Weight(outputs, cols);
      const x = normal([m, transposeWeight ? cols : outputs], magnitude, 3);
      const run = () => storedMatMul(x, weight, transposeWeight);
      await prepare?.(run);
      const expected = tf.tidy(() => tf.matMul(x, unpackMatrix(weight), false, transposeWeight));
      await this.add(`${m} × [${outputs}, ${cols}]${transposeWeight ? 'ᵀ' : ''} ${what}`, run(), expected);
      tf.dispose([x, weight.tensor]);
    }
  }
}

const ourBackend = () => tf.backend() as unknown as WebGPUBackend;

const normal = (shape: [number, number], deviation: number, seed: number) =>
  tf.randomNormal(shape, 0, deviation, 'float32', seed) as tf.Tensor2D;

const float16Weight = (rows: number, cols: number) => ({
  tensor: randomFloat16(rows, cols / 2, 7),
  dtype: 'float16' as const,
  rows,
  cols,
});

/**
 * Compares the kernels that only real cards have (subgroup matrices) with plain float32 operations, at sizes that fill
 * tiles and at ragged ones, also for small gradients. test/layers/kernels/webgpu tests the kernels of every device.
 */
export async function checkKernels(): Promise<Row[]> {
  const {computeDtype, hasMatrices} = capabilitiesOf(ourBackend());
  const checks = new Checks(computeDtype);
  for (const sides of [
    [512, 512, 512],
    [130, 200, 72],
    [300, 1000, 264],
    [17, 128, 2048],
    [1, 512, 2048],
    [1027, 2048, 8192],
    [260, 20000, 256],
  ]) {
    for (const magnitude of [1, 1e-9, 1e6]) await checks.addProducts(sides, `of ${magnitude}`, {magnitude});
  }
  await checkQuantized(checks);
  await checkAdapted(checks);
  if (hasMatrices) {
    for (const inOctets of [false, true]) await checkProjections(checks, inOctets);
    await checkOctets(checks);
  }
  await checkTilings(checks);
  await checkAttention(checks);
  return checks.rows;
}

async function checkQuantized(checks: Checks): Promise<void> {
  for (const [m, outputs, cols] of [
    [300, 520, 264],
    [1027, 2048, 8192],
  ]) {
    const values = await tf.randomNormal([outputs * cols], 0, 1, 'float32', 5).data();
    const weight = storeQuantized(quantizeNF4(values as Float32Array, [outputs, cols], {doubleQuant: true}));
    for (const transposeWeight of [true, false]) {
      const x = normal([m, transposeWeight ? cols : outputs], 1, 3);
      await checks.add(
        `${m} × [${outputs}, ${cols}]${transposeWeight ? 'ᵀ' : ''} in nf4`,
        quantizedMatMul(x, weight, transposeWeight),
        tf.tidy(() => tf.matMul(x, dequantizeRows(weight), false, transposeWeight)),
      );
      x.dispose();
    }
    tf.dispose(Object.values(weight.tensors));
  }
}

async function checkAdapted(checks: Checks): Promise<void> {
  for (const [m, outputs, cols, rank] of [
    [512, 512, 512, 8],
    [130, 200, 80, 5],
    [1027, 2048, 8192, 16],
    [300, 1000, 264, 8],
  ]) {
    for (const magnitude of [1, 1e-9]) {
      const weight = float16Weight(outputs, cols);
      const wide = unpackMatrix(weight);
      const inputs = {
        x: normal([m, cols], 1, 3),
        A: normal([rank, cols], 0.1, 4),
        B: normal([outputs, rank], 1, 5),
      };
      const dy = normal([m, outputs], magnitude, 6);
      const fused = (x: tf.Tensor, a: tf.Tensor, b: tf.Tensor) =>
        loraMatMul(x as tf.Tensor2D, weight, a as tf.Tensor2D, b as tf.Tensor2D, 2);
      const composed = (x: tf.Tensor, a: tf.Tensor, b: tf.Tensor) =>
        tf.add(
          tf.matMul(x, wide, false, true),
          tf.matMul(tf.matMul(x, a, false, true), b, false, true).mul(2),
        );
      const what = `${m} × [${outputs}, ${cols}]ᵀ and rank ${rank}, gradients of ${magnitude}`;
      await checks.addFunction(what, [fused, composed], inputs, dy);
      tf.dispose([Object.values(inputs), dy, wide, weight.tensor]);
    }
  }
}

/**
 * Checks the narrow sides of low-rank paths, for one factor and for several, of which the second is transposed, and the
 * gradients of factors, from rows or octets.
 */
async function checkProjections(checks: Checks, inOctets: boolean): Promise<void> {
  const backend = ourBackend();
  for (const [count, cols, ranks] of [
    [512, 2048, [8, 8, 8]],
    [37, 80, [8, 3, 16]],
    [1027, 8192, [20, 64]],
  ] as [number, number, number[]][]) {
    const x = normal([count, cols], 1e-6, 1);
    const packed = packRows(backend, x, {inOctets});
    const given = inOctets ? 'octets of ' : '';
    const factors = ranks.map((rank, i) => ({
      tensor: normal(i === 1 ? [cols, rank] : [rank, cols], 1e-5, 2 + i),
      isTransposed: i === 1,
      scale: i + 2,
    }));
    const {packs, tensors} = packFactors(backend, [factors.slice(0, 1), factors]);
    const lows = matrixProject(backend, packed, packs[1]);
    for (const {dataId} of tensors) backend.disposeData(dataId);
    for (const [i, {tensor, isTransposed, scale}] of factors.entries()) {
      await checks.add(
        `${given}${count} × ${cols} to rank ${ranks[i]} of ${ranks}`,
        tf.engine().makeTensorFromTensorInfo(lows[i]),
        tf.tidy(() => tf.matMul(x, tensor, false, !isTransposed).mul(scale)),
      );
      tensor.dispose();
    }
    const low = normal([count, 8], 1e-7, 9);
    for (const isTransposed of [true, false]) {
      await checks.add(
        `rank 8 of ${count} rows times ${given}${count} × ${cols}${isTransposed ? ', transposed' : ''}`,
        tf.engine().makeTensorFromTensorInfo(matrixFactorGradient(backend, low, packed, isTransposed)),
        tf.tidy(() => (isTransposed ? tf.matMul(x, low, true) : tf.matMul(low, x, true))),
      );
    }
    for (const {dataId} of [packed.halves, packed.scales]) backend.disposeData(dataId);
    tf.dispose([x, low]);
  }
}

/** Checks products of rows in octets: results of every kind, with and without a low-rank path. */
async function checkOctets(checks: Checks): Promise<void> {
  const backend = ourBackend();
  const widened = ({halves, scales}: {halves: RowsView; scales: tf.TensorInfo}) => {
    const identity = tf.eye(2 * halves.shape[1]);
    const made = project(backend, {halves, scales}, identity, 1);
    identity.dispose();
    return tf.engine().makeTensorFromTensorInfo(made);
  };
  for (const [m, k, n, rank] of [
    [2048, 2048, 1024, 8],
    [1027, 2080, 1000, 16],
    [37, 8192, 136, 4],
  ]) {
    const [x, low, factor] = [normal([m, k], 1e-6, 1), normal([m, rank], 1e-6, 2), normal([rank, n], 1, 3)];
    const matrix = float16Weight(k, n);
    const weight = storedFormat({parts: [matrix.tensor], rows: k}, 'float16', n);
    const plain = unpackMatrix(matrix);
    const packed = packRows(backend, x, {inOctets: true});
    const product = {x: packed.halves, weight, rows: k, cols: n, transposeWeight: false};
    for (const update of [undefined, {low, factor, isTransposed: false}]) {
      const expected = tf.tidy(() => {
        const sum = tf.matMul(x, plain);
        return update ? tf.add(sum, tf.matMul(low, factor)) : sum;
      });
      const from = `octets of ${m} × [${k}, ${n}]${update ? ` and rank ${rank}` : ''}`;
      for (const kind of ['float32', 'added'] as const) {
        const y = tf.zeros([m, n]);
        runMatrixProduct(backend, product, {y, kind}, packed, {update});
        await checks.add(`${from} to ${kind}`, y, expected.clone());
      }
      for (const halves of [tf.zeros([m, n / 2], 'int32'), makeOctets(backend, m, n)] as RowsView[]) {
        runMatrixProduct(backend, product, {y: halves, kind: 'halves'}, packed, {update});
        const got = widened({halves, scales: packed.scales});
        await checks.add(`${from} to ${halves.inOctets ? 'octets' : 'halves'}`, got, expected.clone());
        backend.disposeData(halves.dataId);
      }
      expected.dispose();
    }
    const parts = tf.zeros([2, m, n]);
    runMatrixProduct(backend, product, {y: parts, kind: 'float32'}, packed, {splits: 2});
    await checks.add(
      `octets of ${m} × [${k}, ${n}] in two parts`,
      tf.tidy(() => parts.sum(0)),
      tf.matMul(x, plain),
    );
    for (const {dataId} of [packed.halves, packed.scales]) backend.disposeData(dataId);
    tf.dispose([x, low, factor, matrix.tensor, plain, parts]);
  }
}

/** Checks attention and its gradients, with heads of several sizes, ragged and packed. */
async function checkAttention(checks: Checks): Promise<void> {
  for (const [batch, heads, groups, length, dim, isPacked, window, common = 0] of [
    [1, 4, 2, 128, 64, 0, 0],
    [2, 8, 2, 300, 64, 1, 0],
    [1, 2, 1, 513, 128, 0, 0],
    [1, 2, 1, 200, 80, 0, 0],
    [1, 4, 1, 200, 16, 0, 0],
    [2, 6, 2, 300, 48, 1, 0],
    [1, 4, 2, 333, 96, 0, 0],
    [1, 4, 2, 513, 64, 0, 100],
    [2, 8, 2, 300, 128, 1, 40],
    [1, 4, 2, 513, 64, 0, 0, 50],
  ]) {
    const make = (count: number, seed: number) =>
      tf.randomNormal([batch, count, length, dim], 0, 1, 'float32', seed);
    const inputs = {query: make(heads, 1), key: make(groups, 2).add(common), value: make(groups, 3)};
    const dy = make(heads, 4);
    const ids = Array.from({length: batch}, (_, b) =>
      Array.from({length}, (_, t) => (b === 0 ? 1 + Math.floor(t / 100) : t < 250 ? 1 : 0)),
    );
    const segments = isPacked ? tf.tensor2d(ids, undefined, 'int32') : undefined;
    const bias = causalBias(length, length, segments, window || undefined);
    // Padded queries attend to nothing, so their values have no meaning.
    const real = tf.tensor4d(
      ids.flat().map((id) => (isPacked && id === 0 ? 0 : 1)),
      [batch, 1, length, 1],
    );
    const fused = (q: tf.Tensor, k: tf.Tensor, v: tf.Tensor) =>
      attention(q as tf.Tensor4D, k as tf.Tensor4D, v as tf.Tensor4D, {causal: true, segments, window}).mul(
        real,
      );
    const composed = (q: tf.Tensor, k: tf.Tensor, v: tf.Tensor) =>
      attention(q as tf.Tensor4D, k as tf.Tensor4D, v as tf.Tensor4D, {bias}).mul(real);
    const what = `attention ${heads}/${groups} heads of ${dim}, ${length} tokens${isPacked ? ', packed' : ''}${window ? `, window ${window}` : ''}${common ? `, keys of ${common} and more` : ''}`;
    await checks.addFunction(what, [fused, composed], inputs, dy);
    tf.dispose([Object.values(inputs), dy, real]);
    tf.dispose([segments, bias].filter((tensor) => tensor !== undefined) as tf.Tensor[]);
  }
}

/**
 * Checks products in each possible tiling, at a size that fills tiles, a ragged one, and one whose inner side is split.
 */
async function checkTilings(checks: Checks): Promise<void> {
  const backend = ourBackend();
  for (const [place, tiling] of TILINGS.entries()) {
    await setTuning(backend, {
      device: 'check',
      store: {load: async () => ({}), save: async () => {}},
      measure: async (_, calls) => calls.map((_call, i) => (i === place ? 1 : 2)),
    });
    for (const sides of [
      [512, 512, 512],
      [1027, 1000, 264],
      [130, 128, 8192],
    ]) {
      const prepare = (run: () => tf.Tensor) => compileShaders(() => void run());
      await checks.addProducts(sides, `in tiles of ${Object.values(tiling)}`, {prepare});
    }
  }
  await setTuning(backend, undefined);
}
