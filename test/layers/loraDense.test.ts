import * as tf from '@tensorflow/tfjs';
import {LoRADense, type LoRADenseArgs} from '../../layers/loraDense.ts';
import {TransposedDense} from '../../layers/transposedDense.ts';
import {TfjsLoraError} from '../../quant/errors.ts';
import {describeEachBackend, expectNoLeak} from '../describeEachBackend.ts';
import {expectClose} from '../expectClose.ts';
import {alone, expectDisposesAll, expectJsonRoundTrip, expectLearns} from './aloneInSequential.ts';
import {normal} from './ops/expectSameFunction.ts';

const make = (extra: Partial<LoRADenseArgs> = {}) =>
  new LoRADense({
    units: 6,
    rank: 2,
    seed: 7,
    weightInitializer: tf.initializers.glorotUniform({seed: 1}),
    inputShape: [5],
    ...extra,
  });

const input = () => normal([4, 5], 11);
const run = (layer: tf.layers.Layer, x: tf.Tensor, kwargs = {}) => layer.apply(x, kwargs) as tf.Tensor;

/** Gives an adapter a B that is not zero. */
function stir(layer: LoRADense, name = 'default', seed = 3): void {
  const {loraB} = layer.adapter(name);
  const value = normal(loraB.logicalShape as [number, number], seed);
  loraB.write(value);
  value.dispose();
}

/** Computes `x · (W + scaling · B · A)ᵀ + b` from the layer's weights. */
function expected(layer: LoRADense, x: tf.Tensor, scalings: Record<string, number>): tf.Tensor {
  let weight = layer.base.weight.read() as tf.Tensor;
  for (const [name, scaling] of Object.entries(scalings)) {
    const {loraA, loraB} = layer.adapter(name);
    const [a, b] = [loraA.read(), loraB.read()] as tf.Tensor[] as tf.Tensor2D[];
    weight = tf.add(weight, tf.mul(tf.matMul(b, a), scaling));
  }
  const y = tf.matMul(x as tf.Tensor2D, weight as tf.Tensor2D, false, true);
  return layer.base.bias ? tf.add(y, layer.base.bias.read()) : y;
}

const codeOf = (run: () => unknown): string => {
  try {
    run();
  } catch (error) {
    if (error instanceof TfjsLoraError) return error.code;
    throw error;
  }
  return 'no error';
};

describeEachBackend('LoRADense alone', () => {
  test('starts equal to its base, then adds the scaled update', () => {
    const layer = make();
    const model = alone(layer);
    const x = input();
    expectClose(model.predict(x) as tf.Tensor, run(layer.base, x), {relative: 0});
    stir(layer);
    expectClose(model.predict(x) as tf.Tensor, expected(layer, x, {default: 2}));
    expect(layer.countParams()).toBe(6 * 5 + 6 + 2 * 5 + 6 * 2);
  });

  test('trains only A and B', async () => {
    const x = normal([16, 5], 1);
    await expectLearns(alone(make()), x, normal([16, 6], 2), /\.lora_[AB]$/, {epochs: 60});
    expect(make().trainable).toBe(true);
  });

  test('trains nothing when frozen', () => {
    const layer = make({trainable: false});
    alone(layer);
    expect(layer.trainableWeights).toEqual([]);
    expect(layer.loraA.trainable).toBe(false);
    layer.trainable = true;
    expect(layer.trainableWeights.map((weight) => weight.originalName.split('.').at(-1))).toEqual([
      'lora_A',
      'lora_B',
    ]);
    expect(layer.base.trainableWeights).toEqual([]);
  });

  test('round-trips its config and weights', async () => {
    for (const extra of [
      {},
      {alpha: 3, useRsLoRA: true, init: 'gaussian' as const},
      {useDoRA: true, storage: 'bfloat16' as const},
    ]) {
      const layer = make(extra);
      const model = alone(layer);
      stir(layer);
      await expectJsonRoundTrip(model, input());
    }
  });

  test('draws the same A with the same seed', () => {
    const a = (seed: number) => {
      const layer = make({seed});
      alone(layer);
      return Array.from(layer.loraA.read().dataSync());
    };
    expect(a(1)).toEqual(a(1));
    expect(a(1)).not.toEqual(a(2));
    expect(Math.max(...a(1).map(Math.abs))).toBeLessThanOrEqual(1 / Math.sqrt(5));
  });

  test('disposes of everything, and keeps no tensors', () => {
    const x = input();
    expectDisposesAll(() => alone(make({useDoRA: true})), x);
    const before = tf.memory().numTensors;
    const layer = make();
    const model = alone(layer);
    stir(layer);
    layer.addAdapter('second', {rank: 1});
    layer.merge();
    expectNoLeak(() => model.predict(x));
    layer.unmerge();
    expectNoLeak(() => model.predict(x));
    layer.merge(); // the weight before the merge is freed too
    model.dispose();
    expect(tf.memory().numTensors).toBe(before);
  });
});

describeEachBackend('LoRADense scale', () => {
  test.each([
    ['alpha defaults to 2 · rank', {}, 2],
    ['alpha / rank', {alpha: 3}, 1.5],
    ['rsLoRA: alpha / √rank', {alpha: 3, useRsLoRA: true}, 3 / Math.SQRT2],
  ])('%s', (_, extra, scaling) => {
    const layer = make(extra);
    alone(layer);
    stir(layer);
    expect(layer.adapter().scaling).toBeCloseTo(scaling, 12);
    expectClose(run(layer, input()), expected(layer, input(), {default: scaling}));
  });

  test('weight scales the update', () => {
    const layer = make();
    alone(layer);
    stir(layer);
    layer.adapter().weight = 0.25;
    expectClose(run(layer, input()), expected(layer, input(), {default: 0.5}));
  });
});

describeEachBackend('LoRADense with DoRA', () => {
  const whole = (layer: LoRADense, magnitude: tf.Tensor) => {
    const {loraA, loraB, scaling} = layer.adapter();
    const [a, b] = [loraA.read(), loraB.read()] as tf.Tensor[] as tf.Tensor2D[];
    const weight = tf.add(layer.base.weight.read(), tf.mul(tf.matMul(b, a), scaling)) as tf.Tensor2D;
    return tf.mul(weight, tf.div(magnitude, tf.norm(weight, 2, 1)).expandDims(1)) as tf.Tensor2D;
  };

  test('starts equal to its base, then is magnitude · direction', () => {
    const layer = make({useDoRA: true});
    alone(layer);
    const x = input() as tf.Tensor2D;
    expectClose(run(layer, x), run(layer.base, x), {relative: 2e-6});
    stir(layer);
    const magnitude = tf.tensor1d([1, 2, 0.5, -1, 3, 0.1]);
    layer.adapter().magnitude!.write(magnitude);
    expectClose(run(layer, x), tf.matMul(x, whole(layer, magnitude), false, true));
  });

  test('merged equals unmerged, also beside another adapter', () => {
    const layer = make({useDoRA: true});
    alone(layer);
    stir(layer);
    layer.addAdapter('second', {rank: 1, useDoRA: true});
    stir(layer, 'second', 4);
    const before = run(layer, input());
    layer.merge();
    expectClose(run(layer, input()), before);
  });

  test('A, B and the magnitude train', async () => {
    await expectLearns(
      alone(make({useDoRA: true})),
      normal([16, 5], 1),
      normal([16, 6], 2),
      /\.lora_([AB]|magnitude_vector)$/,
      {epochs: 60},
    );
  });
});

describeEachBackend('LoRADense dropout', () => {
  const layerWith = (dropout: number) => {
    const layer = make({dropout});
    alone(layer);
    stir(layer);
    return layer;
  };

  test('is off in inference', () => {
    expectClose(run(layerWith(0.5), input()), run(layerWith(0), input()), {relative: 0});
  });

  test('is repeatable by seed, and differs between seeds', () => {
    const layer = layerWith(0.5);
    const x = input();
    const once = (seed: number) => Array.from(run(layer, x, {training: true, seed}).dataSync());
    expect(once(1)).toEqual(once(1));
    expect(once(1)).not.toEqual(once(2));
    expectNoLeak(() => run(layer, x, {training: true, seed: 1}));
  });

  test('drops inputs only of the low-rank path and scales up the rest', () => {
    const layer = layerWith(0.5);
    const x = tf.ones([2000, 5]);
    const mean = tf.mean(tf.sub(run(layer, x, {training: true, seed: 1}), run(layer.base, x)), 0);
    const full = tf.mean(tf.sub(run(layer, x), run(layer.base, x)), 0);
    expectClose(mean, full, {relative: 0.1});
  });
});

describeEachBackend('LoRADense.fromDense', () => {
  test('uses one of ours as its base', () => {
    const dense = new TransposedDense({units: 6, activation: 'tanh'});
    dense.build([null, 5]);
    const before = tf.memory().numTensors;
    const layer = LoRADense.fromDense(dense, {rank: 2});
    expect(layer.base).toBe(dense);
    expect(layer.name).toBe(dense.name);
    expect(tf.memory().numTensors).toBe(before + 2);
    expectClose(run(layer, input()), run(dense, input()), {relative: 0});
    expect(dense.trainable).toBe(false);
  });

  test.each([
    ['with bias and activation', {activation: 'sigmoid' as const, biasInitializer: 'ones' as const}],
    ['without a bias', {useBias: false}],
  ])('copies a Keras layer %s', (_, extra) => {
    const keras = tf.layers.dense({units: 6, inputShape: [5], ...extra});
    const model = alone(keras);
    const layer = LoRADense.fromDense(keras, {rank: 3, alpha: 3});
    expectClose(run(layer, input()), model.predict(input()) as tf.Tensor);
    stir(layer);
    expect(
      tf.max(tf.abs(tf.sub(run(layer, input()), model.predict(input()) as tf.Tensor))).dataSync()[0],
    ).toBeGreaterThan(0.01);
    model.dispose(); // the copy stays
    expect(() => run(layer, input())).not.toThrow();
  });

  test('refuses another kind of layer, and an unbuilt one', () => {
    const norm = tf.layers.layerNormalization();
    expect(() => LoRADense.fromDense(norm)).toThrow(
      /expected a built Dense layer, got unbuilt LayerNormalization/,
    );
    expect(() => LoRADense.fromDense(tf.layers.dense({units: 2}))).toThrow(/got unbuilt Dense/);
  });
});

describeEachBackend('LoRADense merge', () => {
  test.each(['float32', 'bfloat16', 'float16'] as const)(
    '%s: equals the adapter, and unmerges bit for bit',
    (storage) => {
      const layer = make({storage});
      alone(layer);
      stir(layer);
      const before = Array.from(layer.base.weight.read().dataSync());
      const adapted = run(layer, input());
      layer.merge();
      expect(layer.isMerged).toBe(true);
      expectClose(run(layer, input()), adapted, {relative: storage === 'float32' ? 1e-5 : 1e-2});
      expect(Array.from(layer.base.weight.read().dataSync())).not.toEqual(before);
      layer.merge(); // does nothing the second time
      layer.unmerge();
      layer.unmerge();
      expect(Array.from(layer.base.weight.read().dataSync())).toEqual(before);
      expectClose(run(layer, input()), adapted, {relative: 0});
    },
  );

  test('fuse leaves a plain layer', () => {
    const before = tf.memory().numTensors;
    const layer = make();
    layer.build([null, 5]);
    stir(layer);
    const x = input();
    const adapted = run(layer, x);
    const dense = layer.fuse();
    expect(dense).toBeInstanceOf(TransposedDense);
    const fused = run(dense, x);
    expectClose(fused, adapted);
    tf.dispose([x, adapted, fused]);
    expect(tf.memory().numTensors).toBe(before + 2);
    dense.dispose();
    expect(tf.memory().numTensors).toBe(before);
  });

  test('refuses a merge that is not finite and leaves the layer as it was', () => {
    const layer = make();
    alone(layer);
    layer.loraB.write(tf.fill([6, 2], Number.NaN));
    const before = Array.from(layer.base.weight.read().dataSync());
    const tensors = tf.memory().numTensors;
    expect(() => layer.merge()).toThrow(/^merged weight of .*: expected numbers, got NaN or infinity/);
    expect(codeOf(() => layer.merge())).toBe('NON_FINITE');
    expect(layer.isMerged).toBe(false);
    expect(Array.from(layer.base.weight.read().dataSync())).toEqual(before);
    expect(tf.memory().numTensors).toBe(tensors);
  });

  test('refuses a merge past the range of float16', () => {
    const layer = make({storage: 'float16'});
    alone(layer);
    layer.loraB.write(tf.fill([6, 2], 1e6));
    expect(codeOf(() => layer.merge())).toBe('NON_FINITE');
    expect(layer.isMerged).toBe(false);
  });
});

describeEachBackend('LoRADense with several adapters', () => {
  const two = () => {
    const layer = make();
    alone(layer);
    layer.addAdapter('second', {rank: 3, alpha: 6});
    stir(layer);
    stir(layer, 'second', 4);
    return layer;
  };

  test('adds the active ones', () => {
    const layer = two();
    expectClose(run(layer, input()), expected(layer, input(), {default: 2, second: 2}));
    layer.activeAdapters = ['second'];
    expectClose(run(layer, input()), expected(layer, input(), {second: 2}));
    layer.activeAdapters = [];
    expectClose(run(layer, input()), run(layer.base, input()), {relative: 0});
  });

  test('merges the active ones', () => {
    const layer = two();
    layer.adapter('second').weight = 0.5;
    layer.merge();
    const merged = run(layer, input());
    layer.unmerge();
    expectClose(merged, expected(layer, input(), {default: 2, second: 1}));
  });

  test('removeAdapter frees it, and unmerges first', () => {
    const layer = two();
    const base = Array.from(layer.base.weight.read().dataSync());
    layer.merge();
    const tensors = tf.memory().numTensors;
    layer.removeAdapter('default');
    expect(tf.memory().numTensors).toBe(tensors - 3); // A, B and the weight before the merge
    expect(layer.activeAdapters).toEqual(['second']);
    expect(Array.from(layer.base.weight.read().dataSync())).toEqual(base);
    expectClose(run(layer, input()), expected(layer, input(), {second: 2}));
    expect(layer.trainableWeights).toHaveLength(2);
  });

  test('checks names', () => {
    const layer = two();
    expect(() => layer.addAdapter('second', {rank: 1})).toThrow('expected a new name, got one that exists');
    expect(() => layer.removeAdapter('secnod')).toThrow(
      /adapter "secnod" of .*: expected one of second, default/,
    );
    expect(codeOf(() => layer.adapter('x'))).toBe('UNKNOWN_ADAPTER');
  });
});

describeEachBackend('LoRADense refuses', () => {
  test.each([
    ['rank 0', {rank: 0}, 'expected an integer from 1 to 5 (its weight is [6, 5]), got 0'],
    [
      'a rank above the dims',
      {rank: 6},
      'expected an integer from 1 to 5 (its weight is [6, 5]), got 6. Lower it',
    ],
    ['half a rank', {rank: 1.5}, 'got 1.5'],
    ['dropout 1', {dropout: 1}, 'expected 0 ≤ p < 1, got 1'],
    ['alpha NaN', {alpha: Number.NaN}, 'expected a number, got NaN'],
    ['an unknown init', {init: 'pissa' as never}, 'expected kaiming or gaussian, got pissa'],
  ])('%s', (_, extra, message) => {
    expect(() => alone(make(extra))).toThrow(message);
  });
});

/** An adapter layer of a downstream package: half the update. */
class HalfLoRADense extends LoRADense {
  static override className = 'HalfLoRADense';
  override call(inputs: tf.Tensor | tf.Tensor[], kwargs = {}): tf.Tensor {
    return tf.tidy(() => {
      const base = this.base.apply(inputs) as tf.Tensor;
      return tf.add(base, tf.mul(tf.sub(super.call(inputs, kwargs), base), 0.5));
    });
  }
}
tf.serialization.registerClass(HalfLoRADense);

describeEachBackend('a LoRADense subclass from outside', () => {
  test('runs, trains the same weights and round-trips', async () => {
    const layer = new HalfLoRADense({units: 6, rank: 2, inputShape: [5]});
    const model = alone(layer);
    stir(layer);
    expectClose(model.predict(input()) as tf.Tensor, expected(layer, input(), {default: 1}));
    const copy = await expectJsonRoundTrip(model, input());
    expect(copy.layers[0]).toBeInstanceOf(HalfLoRADense);
    expect(layer.trainableWeights).toHaveLength(2);
  });
});
