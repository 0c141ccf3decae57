import * as tf from '@tensorflow/tfjs';
import fc from 'fast-check';
import {useBackend} from '../../../../src/training/backends/useBackend.ts';
import {expectNoLeak} from '../../../describeEachBackend.ts';
import {expectClose} from '../../../expectClose.ts';

/** Copies a tensor's values away from any backend, so that two backends compute with the same. */
interface Values {
  shape: number[];
  values: Float32Array;
}

let seed = 1;
function random(shape: number[]): Values {
  const values = new Float32Array(tf.util.sizeFromShape(shape));
  for (let i = 0; i < values.length; i++) {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    values[i] = seed / 2 ** 31 - 1;
  }
  return {shape, values};
}

type Run = (a: tf.Tensor, b: tf.Tensor) => tf.Tensor;

async function on(backend: 'cpu' | 'wasm', run: Run, a: Values, b: Values): Promise<Values> {
  await useBackend(backend, backend === 'wasm' ? {threads: 2} : {});
  const result = tf.tidy(() => run(tf.tensor(a.values, a.shape), tf.tensor(b.values, b.shape)));
  const values = result.dataSync() as Float32Array;
  const {shape} = result;
  result.dispose();
  return {shape, values};
}

async function expectSame(run: Run, a: Values, b: Values): Promise<void> {
  const expected = await on('cpu', run, a, b);
  const actual = await on('wasm', run, a, b);
  expect(actual.shape).toEqual(expected.shape);
  expectClose(actual.values, expected.values, {relative: 1e-5});
}

const matricesOf = (m: number, k: number, n: number, transposeA: boolean, transposeB: boolean) =>
  [transposeA ? [k, m] : [m, k], transposeB ? [n, k] : [k, n]] as const;

const size = fc.integer({min: 1, max: 70});

describe('matrix products on wasm equal those on cpu', () => {
  test('every transpose, odd sizes', async () => {
    await fc.assert(
      fc.asyncProperty(
        size,
        size,
        size,
        fc.boolean(),
        fc.boolean(),
        async (m, k, n, transposeA, transposeB) => {
          const [aShape, bShape] = matricesOf(m, k, n, transposeA, transposeB);
          const run: Run = (a, b) => tf.matMul(a, b, transposeA, transposeB);
          await expectSame(run, random([...aShape]), random([...bShape]));
        },
      ),
      {numRuns: 150},
    );
  });

  test('batches that broadcast', async () => {
    const axis = fc.constantFrom('both', 'left', 'right');
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.record({size: fc.integer({min: 1, max: 3}), axis}), {minLength: 1, maxLength: 3}),
        fc.integer({min: 0, max: 3}),
        fc.tuple(fc.integer({min: 1, max: 13}), fc.integer({min: 1, max: 13}), fc.integer({min: 1, max: 13})),
        fc.boolean(),
        fc.boolean(),
        async (batch, dropped, [m, k, n], transposeA, transposeB) => {
          const [aShape, bShape] = matricesOf(m, k, n, transposeA, transposeB);
          const aBatch = batch.map((one) => (one.axis === 'right' ? 1 : one.size));
          const bBatch = batch
            .map((one) => (one.axis === 'left' ? 1 : one.size))
            .slice(dropped % batch.length);
          const a = random([...aBatch, ...aShape]);
          const b = random([...bBatch, ...bShape]);
          const outBatch = tf.broadcast_util.assertAndGetBroadcastShape(aBatch, bBatch);
          // The stock cpu kernel broadcasts one axis only, so it gets whole operands.
          const whole: Run = (x, y) =>
            tf.matMul(
              x.broadcastTo([...outBatch, ...aShape]),
              y.broadcastTo([...outBatch, ...bShape]),
              transposeA,
              transposeB,
            );
          const expected = await on('cpu', whole, a, b);
          const actual = await on('wasm', (x, y) => tf.matMul(x, y, transposeA, transposeB), a, b);
          expect(actual.shape).toEqual(expected.shape);
          expectClose(actual.values, expected.values, {relative: 1e-5});
        },
      ),
      {numRuns: 150},
    );
  });

  test.each([
    [130, 700, 1100, false, true], // several panels in each direction, shared among threads
    [130, 700, 1100, true, false],
    [600, 330, 20, false, true], // few columns: the left side is read in place
    [600, 330, 20, true, true],
    [1, 641, 513, false, false],
    [1, 641, 513, false, true],
    [321, 1, 515, true, true],
  ])('%i × %i × %i, transposed %s, %s', async (m, k, n, transposeA, transposeB) => {
    const [aShape, bShape] = matricesOf(m, k, n, transposeA, transposeB);
    const run: Run = (a, b) => tf.matMul(a, b, transposeA, transposeB);
    await expectSame(run, random([...aShape]), random([...bShape]));
  });

  test('a batch large enough for threads', async () => {
    await expectSame((a, b) => tf.matMul(a, b, false, true), random([12, 65, 64]), random([12, 67, 64]));
    await expectSame((a, b) => tf.matMul(a, b), random([12, 65, 67]), random([12, 67, 64]));
    await expectSame((a, b) => tf.matMul(a, b, true, false), random([12, 65, 67]), random([1, 65, 64]));
  });

  test('an empty inner axis gives zeros, an empty batch nothing', async () => {
    await useBackend('wasm');
    tf.ones([5, 7]).dispose(); // leaves something other than zeros on the heap
    expect(Array.from(tf.matMul(tf.zeros([5, 0]), tf.zeros([0, 7])).dataSync())).toEqual(Array(35).fill(0));
    expect(tf.matMul(tf.zeros([0, 5, 3]), tf.zeros([0, 3, 7])).shape).toEqual([0, 5, 7]);
  });

  test('NaN and infinity reach exactly the results that depend on them', async () => {
    const a = random([9, 11]);
    const b = random([11, 13]);
    a.values[3 * 11 + 2] = Number.NaN;
    b.values[5 * 13 + 12] = Number.POSITIVE_INFINITY;
    const {values} = await on('wasm', (x, y) => tf.matMul(x, y), a, b);
    values.forEach((value, i) => {
      const [row, col] = [Math.floor(i / 13), i % 13];
      if (row === 3) expect(value).toBeNaN();
      else if (col === 12) expect(Math.abs(value)).toBe(Number.POSITIVE_INFINITY);
      else expect(Number.isFinite(value)).toBe(true);
    });
  });

  test('gradients, for every transpose', async () => {
    for (const [transposeA, transposeB] of [
      [false, false],
      [false, true],
      [true, false],
      [true, true],
    ]) {
      const [aShape, bShape] = matricesOf(10, 9, 19, transposeA, transposeB);
      const product = (x: tf.Tensor, y: tf.Tensor) =>
        tf.matMul(x, y, transposeA, transposeB).square().sum().asScalar();
      const a = random([3, ...aShape]);
      const b = random([3, ...bShape]);
      await expectSame((x, y) => tf.grads(product)([x, y])[0], a, b);
      await expectSame((x, y) => tf.grads(product)([x, y])[1], a, b);
    }
  });

  test('names the sizes that do not fit', async () => {
    await useBackend('wasm');
    expect(() => tf.matMul(tf.zeros([2, 3]), tf.zeros([2, 3]))).toThrow();
    expect(() => tf.matMul(tf.zeros([2, 3], 'int32'), tf.zeros([3, 2], 'int32'))).toThrow('float32');
  });

  test('keeps neither tensors nor heap', async () => {
    await useBackend('wasm');
    const a = tf.ones([64, 512]);
    const b = tf.ones([512, 512]);
    expectNoLeak(() => tf.matMul(a, b, false, true));
    const heap = () => (tf.backend() as unknown as {wasm: {HEAPU8: Uint8Array}}).wasm.HEAPU8.byteLength;
    const before = heap();
    for (let i = 0; i < 200; i++) {
      const right = tf.tidy(() => tf.add(b, i)); // a new right-hand side each time, as gradients are
      tf.dispose([tf.matMul(a, right), right]);
    }
    expect(heap()).toBe(before);
  });
});

describe('dense layers on wasm', () => {
  test.each(['linear', 'relu', 'relu6', 'sigmoid', 'elu'] as const)(
    'fused with bias and %s',
    async (activation) => {
      const run: Run = (a, b) =>
        tf.fused.matMul({a: a as tf.Tensor2D, b: b as tf.Tensor2D, bias: tf.linspace(-1, 7, 9), activation});
      await expectSame(run, random([6, 5]), random([5, 9]));
    },
  );

  test('prelu slopes', async () => {
    const run: Run = (a, b) =>
      tf.fused.matMul({
        a: a as tf.Tensor2D,
        b: b as tf.Tensor2D,
        activation: 'prelu',
        preluActivationWeights: tf.linspace(0, 1, 9),
      });
    await expectSame(run, random([6, 5]), random([5, 9]));
  });

  test('leaky relu', async () => {
    const run: Run = (a, b) =>
      tf.fused.matMul({
        a: a as tf.Tensor2D,
        b: b as tf.Tensor2D,
        activation: 'leakyrelu',
        leakyreluAlpha: 0.3,
      });
    await expectSame(run, random([6, 5]), random([5, 9]));
  });
});
