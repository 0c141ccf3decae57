import * as tf from '@tensorflow/tfjs';
import {adamWUpdate} from '../../../../layers/ops/adamWUpdate.ts';
import {runKernel} from '../../../../layers/ops/dispatch.ts';
import {embedding} from '../../../../layers/ops/embedding.ts';
import {globalNorm} from '../../../../layers/ops/globalNorm.ts';
import {loraLinear} from '../../../../layers/ops/loraLinear.ts';
import {pack16} from '../../../../layers/ops/pack16.ts';
import {rmsNorm, rmsNormOp} from '../../../../layers/ops/rmsNorm.ts';
import {rotaryEmbedding} from '../../../../layers/ops/rotaryEmbedding.ts';
import {scaleRows} from '../../../../layers/ops/scaleRows.ts';
import {softmaxCrossEntropy} from '../../../../layers/ops/softmaxCrossEntropy.ts';
import {swiGLU} from '../../../../layers/ops/swiGLU.ts';
import {unpack16} from '../../../../layers/ops/unpack16.ts';
import {packFloat32Rows, packRows, unpackRows} from '../../../../quant/float16.ts';
import {expectNoLeak} from '../../../describeEachBackend.ts';
import {describeWebGPU, expectSame, expectSameFunction, normal} from './webgpuOnly.ts';

describeWebGPU('elementwise kernels', () => {
  test.each([[[3, 5]], [[2, 4, 8]]])('swiGLU of %j', async (shape) => {
    const reference = (gate: tf.Tensor, up: tf.Tensor) => gate.mul(tf.sigmoid(gate)).mul(up);
    await expectSameFunction(swiGLU, reference, [normal(shape, 1, 3), normal(shape, 2)]);
  });

  test.each([[[4, 7]], [[2, 3, 300]]])('rmsNorm of %j with a frozen weight', async (shape) => {
    const weight = tf.variable(normal([shape.at(-1) as number], 3), false);
    await expectSameFunction(
      (x) => rmsNorm(x, weight),
      (x) => x.mul(x.square().mean(-1, true).add(1e-5).rsqrt()).mul(weight),
      [normal(shape, 4, 10)],
    );
    weight.dispose();
  });

  test('the gradient of rmsNorm overwrites dy if it is spent and nobody else has it', async () => {
    const [x, weight, dy] = [normal([3, 20], 1), normal([20], 2), normal([3, 20], 3)];
    const run = (dy: tf.Tensor, isSpent: boolean) =>
      [runKernel(rmsNormOp.gradient, {x, weight, dy}, {epsilon: 1e-5, isSpent})].flat()[0];
    const expected = run(dy, false);
    const shared = dy.clone();
    const fromShared = run(shared, true);
    expect(fromShared.dataId).not.toBe(dy.dataId);
    shared.dispose();
    const got = run(dy, true);
    expect(got.dataId).toBe(dy.dataId);
    await expectSame(fromShared, expected.clone(), 0);
    await expectSame(got, expected, 0);
    tf.dispose([x, weight, dy]);
  });

  test.each([
    ['factors of rows', [5]],
    ['one factor', []],
  ])('scaleRows with %s, over the rows if they are spent', async (_, shape) => {
    const [x, factors] = [normal([5, 7], 1), normal(shape, 2)];
    const expected = tf.tidy(() => tf.mul(x, shape.length === 0 ? factors : factors.expandDims(1)));
    const fresh = scaleRows(x, factors);
    expect(fresh.dataId).not.toBe(x.dataId);
    await expectSame(fresh, expected.clone(), 0);
    expectNoLeak(() => scaleRows(x, factors));
    const over = scaleRows(x, factors, true);
    expect(over.dataId).toBe(x.dataId);
    await expectSame(over, expected, 0);
    tf.dispose([x, factors]);
  });

  test.each([1, 2])('rotaryEmbedding with tables of batch %d', async (batch) => {
    const [cos, sin] = [normal([batch, 1, 5, 4], 5), normal([batch, 1, 5, 4], 6)] as tf.Tensor4D[];
    const reference = (x: tf.Tensor4D) => {
      const [first, second] = tf.split(x, 2, 3);
      const turned = [first.mul(cos).sub(second.mul(sin)), second.mul(cos).add(first.mul(sin))];
      return tf.concat(turned, 3);
    };
    await expectSameFunction((x) => rotaryEmbedding(x, cos, sin), reference, [normal([2, 3, 5, 8], 7)]);
  });

  test.each([
    [5, 7, 9, 1],
    [70, 36, 24, 8],
    [33, 8, 20, 20],
  ])('loraLinear of %d rows, %d to %d, rank %d', async (rows, inputDim, units, rank) => {
    const inputs = [
      normal([rows, units], 8),
      normal([rows, inputDim], 9),
      normal([rank, inputDim], 10),
      normal([units, rank], 11),
    ];
    await expectSameFunction(
      (base, x, a, b) => loraLinear(base, x, a, b, 0.7),
      (base, x, a, b) => base.add(tf.matMul(tf.matMul(x, a, false, true), b, false, true).mul(0.7)),
      inputs,
    );
  });

  test('softmaxCrossEntropy ignores rows and survives large logits', async () => {
    const logits = tf.concat([normal([3, 301], 12, 5), normal([1, 301], 13, 1e4)]) as tf.Tensor2D;
    const labels = tf.tensor1d([300, -100, 0, 17], 'int32');
    const [losses, gradient] = softmaxCrossEntropy(logits, labels);
    const onehot = tf.oneHot(tf.tensor1d([300, 0, 0, 17], 'int32'), 301).toFloat();
    const counted = tf.tensor1d([1, 0, 1, 1]);
    await expectSame(losses, tf.logSumExp(logits, 1).sub(logits.mul(onehot).sum(1)).mul(counted));
    await expectSame(gradient, tf.softmax(logits).sub(onehot).mul(counted.expandDims(1)));
    expectNoLeak(() => softmaxCrossEntropy(logits, labels));
  });

  test.each(['float16', 'bfloat16'] as const)('all values of %s widen exactly', async (dtype) => {
    const all = Uint16Array.from({length: 65536}, (_, i) => i);
    const cols = 31; // an empty half at the end of each row
    const rows = Math.floor(65536 / cols);
    const packed = packRows(all.subarray(0, rows * cols), rows, cols);
    const words = tf.tensor2d(packed, [rows, Math.ceil(cols / 2)], 'int32');
    const got = await unpack16(words, dtype, cols).data();
    const expected = unpackRows(packed, rows, cols, dtype);
    expect(expected.findIndex((value, i) => !Object.is(value, got[i]))).toBe(-1);
    const ids = [7, 0, rows - 1, 7];
    const picked = embedding(tf.tensor1d(ids, 'int32'), {tensor: words, dtype, rows, cols});
    const values = await picked.data();
    const wanted = ids.flatMap((id) => [...expected.subarray(id * cols, (id + 1) * cols)]);
    expect(wanted.findIndex((value, i) => !Object.is(value, values[i]))).toBe(-1);
  });

  test.each(['float16', 'bfloat16'] as const)('numbers round to %s as on the host', async (dtype) => {
    const bits = Uint32Array.from({length: 4097}, (_, i) => Math.imul(i, 2654435761) >>> 0);
    const ties = [
      0x38800000, 0x33000000, 0x33000001, 0x477fefff, 0x477ff000, 0x3f801000, 0x3f803000, 0x3f808000,
    ];
    const special = [0, 0x80000000, 0x7f800000, 0xff800000, 0x7fc00000, 0x7f7fffff, 0x00000001, 0x387fe000];
    const values = new Float32Array(
      Uint32Array.of(...bits, ...ties, ...special, 0x387ff000, 0xb8000fff).buffer,
    );
    const cols = 23;
    const rows = Math.floor(values.length / cols);
    const matrix = tf.tensor2d(values.subarray(0, rows * cols), [rows, cols]);
    const got = unpackRows((await pack16(matrix, dtype).data()) as Int32Array, rows, cols, dtype);
    const packed = packFloat32Rows(values.subarray(0, rows * cols), rows, cols, dtype);
    const expected = unpackRows(packed, rows, cols, dtype); // NaN may differ in its bits
    const wrong = expected.findIndex((value, i) => !Object.is(value, got[i]));
    expect([wrong, expected[wrong], got[wrong]]).toEqual([-1, undefined, undefined]);
  });

  test('adds more tensors than a shader binds', async () => {
    const terms = Array.from({length: 23}, (_, i) => tf.scalar(2 ** (i % 10)));
    const expected = terms.length === 23 ? 2 * 1023 + 7 : 0;
    const sum = tf.addN(terms);
    expect((await sum.data())[0]).toBe(expected);
    expectNoLeak(() => tf.addN(terms));
  });

  test.each([[[3, 5]], [[2, 4, 8]]])(
    'adds two tensors of %j, and broadcasts as the stock kernel does',
    async (shape) => {
      const last = shape.at(-1) as number;
      await expectSameFunction(
        (a, b) => tf.add(a, b),
        (a, b) => a.sub(b.neg()),
        [normal(shape, 1), normal(shape, 2)],
      );
      await expectSameFunction(
        (a, b) => tf.add(a, b),
        (a, b) => a.sub(b.neg()),
        [normal(shape, 1), normal([last], 2)],
      );
    },
  );

  test.each([[[2, 3, 5, 8]], [[1, 7, 1, 4]], [[2, 3, 2, 6]]])(
    'swaps the middle axes of %j',
    async (shape) => {
      const [batch, rows, cols, dim] = shape;
      await expectSameFunction(
        (x) => x.transpose([0, 2, 1, 3]),
        (x) =>
          tf.stack(
            Array.from({length: cols}, (_, i) =>
              x.slice([0, 0, i, 0], [-1, -1, 1, -1]).reshape([batch, rows, dim]),
            ),
            1,
          ),
        [normal(shape, 1)],
      );
    },
  );

  test('adds integers that were cast', async () => {
    const whole = tf.range(0, 48, 1, 'int32').reshape([2, 3, 2, 4]).toFloat();
    const expected = Array.from({length: 48}, (_, i) => i);
    const doubled = expected.map((value) => 2 * value);
    expect(Array.from(await tf.add(whole, whole).data())).toEqual(doubled);
    expect(Array.from(await tf.addN([whole, whole]).data())).toEqual(doubled);
  });

  test('globalNorm of more tensors than a shader binds', async () => {
    const tensors = Array.from({length: 33}, (_, i) => normal([1 + 911 * i], i + 1));
    const expected = tf.sqrt(tf.addN(tensors.map((tensor) => tensor.square().sum())));
    expectNoLeak(() => globalNorm(tensors));
    await expectSame(globalNorm(tensors), expected);
  });

  test.each([7, 64])(
    'an overwriting adamWUpdate of %d elements leaves tensors with other owners',
    async (size) => {
      const settings = {learningRate: 0.1, beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weightDecay: 0.1, step: 3};
      const inputs = () =>
        [normal([size], 1), normal([size], 2), normal([size], 3), normal([size], 4).square()] as const;
      const expected = adamWUpdate(...inputs(), settings);
      const given = inputs();
      const held = given[2].clone(); // the mean's
      const before = Array.from(await given[0].data());
      const got = adamWUpdate(...given, {...settings, overwrite: true});
      await expectSame(held, normal([size], 3));
      expect(Array.from(await given[0].data())).not.toEqual(before); // and no earlier values are remembered
      expect(Array.from(await given[0].data())).toEqual(Array.from(await got[0].data()));
      for (const [i, tensor] of got.entries()) await expectSame(tensor, expected[i]);
    },
  );

  test.each([7, 64])('adamWUpdate of %d elements', async (size) => {
    const settings = {learningRate: 0.1, beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weightDecay: 0.1, step: 3};
    const [value, gradient, mean] = [normal([size], 1), normal([size], 2), normal([size], 3)];
    const variance = normal([size], 4).square();
    const [nextValue, nextMean, nextVariance] = adamWUpdate(value, gradient, mean, variance, settings);
    const m = mean.mul(0.9).add(gradient.mul(0.1));
    const v = variance.mul(0.99).add(gradient.square().mul(0.01));
    const denominator = v
      .sqrt()
      .div(Math.sqrt(1 - 0.99 ** 3))
      .add(1e-8);
    await expectSame(nextValue, value.mul(0.99).sub(m.div(denominator).mul(0.1 / (1 - 0.9 ** 3))));
    await expectSame(nextMean, m);
    await expectSame(nextVariance, v);
  });
});
