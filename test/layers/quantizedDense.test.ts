import * as tf from '@tensorflow/tfjs';
import {LoRADense} from '../../layers/loraDense.ts';
import {unpackMatrix} from '../../layers/ops/unpackMatrix.ts';
import {QuantizedDense} from '../../layers/quantizedDense.ts';
import {TransposedDense} from '../../layers/transposedDense.ts';
import {FourBitTensor} from '../../quant/fourBitTensor.ts';
import type {Quantizer} from '../../quant/quantizer.ts';
import {registerQuantizer} from '../../quant/quantizerRegistry.ts';
import {describeEachBackend, expectNoLeak} from '../describeEachBackend.ts';
import {expectClose} from '../expectClose.ts';
import {errorOf} from '../models/tinyLlama.ts';
import {normal} from './ops/expectSameFunction.ts';

const TYPES = [
  {type: 'nf4'},
  {type: 'nf4', doubleQuant: true},
  {type: 'fp4', blockSize: 32},
  {type: 'int8'},
  {type: 'int8', threshold: 0.5},
] as const;

function builtDense(args: Partial<ConstructorParameters<typeof TransposedDense>[0]> = {}): TransposedDense {
  const dense = new TransposedDense({units: 12, name: 'projection', ...args});
  dense.build([null, 70]);
  dense.bias?.write(normal([12], 3));
  return dense;
}

/** A quantizer of a library that uses this one. */
const signs: Quantizer = {
  name: 'test-signs',
  quantize: (values, shape) => ({
    quantType: 'test-signs',
    shape,
    dtype: 'float32',
    byteLength: values.length / 8,
    dequantize: () => Float32Array.from(values, Math.sign),
    dequantizeRows: (begin, end) =>
      Float32Array.from(values.slice(begin * shape[1], end * shape[1]), Math.sign),
  }),
};

const run = (layer: tf.layers.Layer, x: tf.Tensor) => layer.apply(x) as tf.Tensor;

describeEachBackend('QuantizedDense', () => {
  test.each(TYPES)('%j computes with the dequantized weight and the bias', async (quantization) => {
    const dense = builtDense();
    const layer = await QuantizedDense.fromDense(dense, quantization);
    const plain = layer.dequantize();
    const x = normal([2, 3, 70], 1);
    expect(run(layer, x).shape).toEqual([2, 3, 12]);
    expectClose(run(layer, x), run(plain, x), {relative: 1e-5});
    const [weight, rounded] = [dense.weight.read() as tf.Tensor, unpackMatrix(layer.weight.matrix())];
    const error = tf.max(tf.abs(tf.sub(weight, rounded))).dataSync()[0];
    expect(error).toBeGreaterThan(0);
    expect(error).toBeLessThan(
      tf.max(tf.abs(weight)).dataSync()[0] / (quantization.type === 'int8' ? 100 : 4),
    );
    expectNoLeak(() => run(layer, x));
  });

  test('is frozen and has one logical weight of few bytes', async () => {
    const layer = await QuantizedDense.fromDense(builtDense(), {type: 'nf4', doubleQuant: true});
    expect(layer.trainableWeights).toEqual([]);
    expect(layer.countParams()).toBe(12 * 70 + 12);
    expect(layer.weight.logicalShape).toEqual([12, 70]);
    expect(layer.weight.quantType).toBe('nf4');
    expect(layer.weight.byteLength).toBe(420 + 14 + 4 + 4); // codes, scales' codes, their scale, their mean
    layer.trainable = true;
    expect(layer.weight.trainable).toBe(false);
  });

  test('remembers the type of its weight and dequantizes into it', async () => {
    const dense = builtDense({storage: 'bfloat16'});
    const layer = await QuantizedDense.fromDense(dense, {type: 'nf4'});
    expect(layer.weight.sourceDtype).toBe('bfloat16');
    expect(layer.dequantize().weight.storage).toBe('bfloat16');
    const matrix = (await layer.weight.readMatrix()) as FourBitTensor;
    expect(matrix).toBeInstanceOf(FourBitTensor);
    expect(matrix.dtype).toBe('bfloat16');
  });

  test('leaves no tensor behind when dequantizing and disposing', async () => {
    const before = tf.memory().numTensors;
    for (const quantization of TYPES) {
      const dense = builtDense();
      const layer = await QuantizedDense.fromDense(dense, quantization);
      const plain = layer.dequantize();
      for (const each of [dense, layer, plain]) each.disposeWeights();
    }
    expect(tf.memory().numTensors - before).toBe(TYPES.length); // the fixture's own bias values
  });

  test('works alone in a sequential model and comes back from its config', () => {
    const model = tf.sequential({
      layers: [
        new QuantizedDense({
          units: 6,
          activation: 'relu',
          quantization: {type: 'nf4', blockSize: 32, doubleQuant: true},
          inputShape: [8],
        }),
      ],
    });
    expect((model.predict(normal([3, 8], 1)) as tf.Tensor).shape).toEqual([3, 6]);
    const config = model.layers[0].getConfig();
    expect(config.quantization).toEqual({type: 'nf4', blockSize: 32, doubleQuant: true});
    const again = tf.models.modelFromJSON(JSON.parse(model.toJSON() as string));
    return again.then(({layers: [layer]}) => {
      expect(layer).toBeInstanceOf(QuantizedDense);
      expect(layer.getConfig().quantization).toEqual(config.quantization);
      expect((layer as QuantizedDense).activation).toBe('relu');
    });
  });

  test('holds the matrix of an external quantizer', async () => {
    registerQuantizer(signs);
    const dense = builtDense({useBias: false});
    const layer = await QuantizedDense.fromDense(dense, {type: 'test-signs'});
    const x = normal([4, 70], 1) as tf.Tensor2D;
    const expected = tf.sign(dense.weight.read() as tf.Tensor);
    expectClose(run(layer, x), tf.matMul(x, expected as tf.Tensor2D, false, true), {relative: 1e-5});
    const gradient = tf.grad((input: tf.Tensor) => run(layer, input));
    expectClose(gradient(x, tf.ones([4, 12])), tf.matMul(tf.ones([4, 12]), expected as tf.Tensor2D), {
      relative: 1e-5,
    });
    expectNoLeak(() => gradient(x));
  });

  test('refuses what it cannot do and names the weight', async () => {
    expect(await errorOf(() => new QuantizedDense({units: 2, quantization: {type: 'nf5'}}))).toEqual({
      code: 'INVALID_ARGUMENT',
      message: expect.stringContaining("got 'nf5'. Nearest: nf4"),
    });
    const dense = builtDense();
    const values = Float32Array.from({length: 840}, (_, i) => (i === 77 ? Number.NaN : 1));
    dense.weight.write(tf.tensor2d(values, [12, 70]));
    const before = tf.memory().numTensors;
    expect(await errorOf(() => QuantizedDense.fromDense(dense, {type: 'nf4'}))).toEqual({
      code: 'NON_FINITE',
      message: expect.stringContaining('projection.weight [element 77]'),
    });
    expect(tf.memory().numTensors).toBe(before);
    const layer = await QuantizedDense.fromDense(builtDense(), {type: 'nf4'});
    const wrong = await (
      await QuantizedDense.fromDense(new DenseOf(5).layer, {type: 'nf4'})
    ).weight.readMatrix();
    expect(() => layer.weight.writeMatrix(wrong)).toThrow(
      'weight projection.weight: expected [12, 70], got a quantized matrix of [12, 5]',
    );
  });
});

/** Makes a built layer with another input width. */
class DenseOf {
  readonly layer = new TransposedDense({units: 12, name: 'narrow'});
  constructor(inputDim: number) {
    this.layer.build([null, inputDim]);
  }
}

describeEachBackend('LoRADense over QuantizedDense', () => {
  async function adapted(type: 'nf4' | 'int8' = 'nf4', options = {}): Promise<LoRADense> {
    const base = await QuantizedDense.fromDense(builtDense({storage: 'bfloat16'}), {type});
    const layer = LoRADense.fromDense(base, {rank: 3, seed: 1, ...options});
    layer.loraB.write(normal([12, 3], 5));
    return layer;
  }

  test.each([{}, {useDoRA: true}])(
    'computes and differentiates as over the dequantized base, %j',
    async (options) => {
      const layer = await adapted('nf4', options);
      const plain = LoRADense.fromDense((layer.base as QuantizedDense).dequantize('float32'), {
        rank: 3,
        ...options,
      });
      for (const key of layer.adapter().parameters.keys()) {
        plain
          .adapter()
          .parameters.get(key)
          ?.write(layer.adapter().parameters.get(key)?.read() as tf.Tensor);
      }
      const x = normal([5, 70], 2);
      expectClose(run(layer, x), run(plain, x), {relative: 1e-5});
      const gradients = (of: LoRADense) =>
        tf.variableGrads(
          () => tf.sum(tf.square(run(of, x))) as tf.Scalar,
          of.trainableWeights.map((weight) => weight.read() as tf.Variable),
        ).grads;
      const [ours, theirs] = [Object.values(gradients(layer)), Object.values(gradients(plain))];
      expect(ours.length).toBe('useDoRA' in options ? 3 : 2);
      for (const [i, gradient] of ours.entries()) expectClose(gradient, theirs[i], {relative: 1e-5});
      expectClose(
        tf.grad((input: tf.Tensor) => run(layer, input))(x),
        tf.grad((input: tf.Tensor) => run(plain, input))(x),
        {relative: 1e-5},
      );
      expectNoLeak(() => tf.tidy(() => gradients(layer)));
    },
  );

  test('refuses to merge into few bits, and merges into the dequantized weight on request', async () => {
    const layer = await adapted();
    expect(await errorOf(() => layer.merge())).toEqual({
      code: 'UNSUPPORTED',
      message: expect.stringMatching(
        /projection: expected a base in 16 or 32 bits, got nf4\. .*dequantize: true/,
      ),
    });
    expect(layer.isMerged).toBe(false);
    const x = normal([5, 70], 2);
    const before = run(layer, x);
    const tensors = tf.memory().numTensors;
    layer.merge({dequantize: true});
    expect(layer.isMerged).toBe(true);
    expect(layer.base.weight.storage).toBe('bfloat16');
    expectClose(run(layer, x), before, {relative: 1e-2}); // the sum is rounded to bfloat16
    layer.unmerge();
    expect(layer.base).toBeInstanceOf(QuantizedDense);
    const after = run(layer, x);
    expect(Array.from(after.dataSync())).toEqual(Array.from(before.dataSync()));
    after.dispose();
    expect(tf.memory().numTensors - tensors).toBe(1); // the merged output above
  });

  test('fuses into a plain layer and frees the quantized weight', async () => {
    const before = tf.memory().numTensors;
    const layer = await adapted();
    const fused = layer.fuse({dequantize: true});
    expect(fused).not.toBeInstanceOf(QuantizedDense);
    expect(fused.weight.storage).toBe('bfloat16');
    fused.disposeWeights();
    // The rest belongs to the fixture: its own layer's weight and bias, the values written into them and into B.
    expect(tf.memory().numTensors - before).toBe(4);
  });

  test('is built whole from its arguments and comes back from its config', async () => {
    const layer = new LoRADense({units: 6, rank: 2, quantization: {type: 'fp4'}, inputShape: [8]});
    const model = tf.sequential({layers: [layer]});
    expect(layer.base).toBeInstanceOf(QuantizedDense);
    const again = await tf.models.modelFromJSON(JSON.parse(model.toJSON() as string));
    expect((again.layers[0] as LoRADense).base).toBeInstanceOf(QuantizedDense);
    expect(again.layers[0].getConfig().quantization).toEqual({type: 'fp4'});
  });
});
