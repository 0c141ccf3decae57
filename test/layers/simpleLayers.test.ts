import * as tf from '@tensorflow/tfjs';
import {RMSNorm} from '../../layers/rmsNorm.ts';
import {RotaryEmbedding} from '../../layers/rotaryEmbedding.ts';
import {SwiGLU} from '../../layers/swiGLU.ts';
import {TiedHead} from '../../layers/tiedHead.ts';
import {TokenEmbedding} from '../../layers/tokenEmbedding.ts';
import {TransposedDense} from '../../layers/transposedDense.ts';
import {describeEachBackend, expectNoLeak} from '../describeEachBackend.ts';
import {expectClose} from '../expectClose.ts';
import {alone, expectDisposesAll, expectJsonRoundTrip, expectLearns} from './aloneInSequential.ts';
import {normal} from './ops/expectSameFunction.ts';

const glorot = (seed: number) => tf.initializers.glorotUniform({seed});

describeEachBackend('Dense', () => {
  const make = (extra = {}) =>
    new TransposedDense({
      units: 3,
      activation: 'relu',
      weightInitializer: glorot(1),
      inputShape: [4],
      ...extra,
    });

  test('is activation(x · Wᵀ + b), on any leading axes', () => {
    const layer = make();
    const model = alone(layer);
    layer.setWeights([layer.getWeights()[0], tf.tensor1d([0.1, -0.2, 0.3])]);
    const x = normal([2, 4], 2) as tf.Tensor2D;
    const [weight, bias] = layer.getWeights();
    expect(weight.shape).toEqual([3, 4]);
    const expected = tf.relu(tf.add(tf.matMul(x, weight as tf.Tensor2D, false, true), bias));
    expectClose(model.predict(x) as tf.Tensor, expected);
    expectClose(layer.apply(x.reshape([2, 1, 1, 4])) as tf.Tensor, expected.reshape([2, 1, 1, 3]));
    expect(layer.countParams()).toBe(15);
  });

  test('round-trips its config', async () => {
    await expectJsonRoundTrip(alone(make()), normal([2, 4], 2));
    await expectJsonRoundTrip(
      alone(make({useBias: false, activation: undefined, storage: 'bfloat16'})),
      normal([2, 4], 2),
    );
    const copy = TransposedDense.fromConfig(TransposedDense as never, make().getConfig()) as TransposedDense;
    expect(copy.getConfig()).toEqual(make({name: copy.name}).getConfig());
  });

  test('learns unless it is frozen', async () => {
    const [x, y] = [normal([16, 4], 2), normal([16, 3], 3)];
    await expectLearns(alone(make({activation: undefined})), x, y, /\.(weight|bias)$/);
    const frozen = make({trainable: false});
    alone(frozen);
    expect(frozen.trainableWeights).toEqual([]);
    expect(frozen.nonTrainableWeights).toHaveLength(2);
  });

  test('becomes trainable and frozen as Keras layers do', () => {
    const layer = make();
    alone(layer);
    layer.trainable = false;
    expect([layer.trainableWeights.length, layer.nonTrainableWeights.length]).toEqual([0, 2]);
    layer.trainable = true;
    expect([layer.trainableWeights.length, layer.nonTrainableWeights.length]).toEqual([2, 0]);
  });

  test.each(['bfloat16', 'float16'] as const)(
    'a %s weight takes half the bytes and stays frozen',
    (storage) => {
      const bytes = (dtype: 'float32' | typeof storage) => {
        const before = tf.memory().numBytes;
        const layer = new TransposedDense({units: 8, useBias: false, storage: dtype});
        layer.build([null, 16]);
        const taken = tf.memory().numBytes - before;
        return {layer, taken};
      };
      expect(bytes('float32').taken).toBe(4 * 8 * 16);
      const {layer, taken} = bytes(storage);
      expect(taken).toBe(2 * 8 * 16);
      layer.trainable = true;
      expect(layer.trainableWeights).toEqual([]);
      expect(layer.countParams()).toBe(128);
    },
  );

  test('keeps no tensors', () => {
    const layer = make();
    const x = normal([2, 4], 2);
    layer.apply(x);
    expectNoLeak(() => layer.apply(x));
    expectDisposesAll(() => alone(make()), x);
  });

  test('a disposed layer names itself in the error', () => {
    const layer = make();
    const x = normal([2, 4], 2);
    layer.apply(x);
    layer.dispose();
    expect(() => layer.weight.read()).toThrow(/expected a live weight, got one that was disposed/);
  });

  test('refuses weights of another shape', () => {
    const layer = make();
    alone(layer);
    expect(() => layer.weight.write(tf.zeros([4, 3]))).toThrow(
      '.weight: expected float32 [3,4], got float32 [4,3]',
    );
  });

  test('names an unknown initializer', () => {
    expect(() => make({weightInitializer: {className: 'Nope', config: {}}})).toThrow(
      'initializer "Nope": expected a registered class',
    );
  });
});

/** A layer of a downstream package: a gain per unit on top of a TransposedDense. */
class GainedDense extends TransposedDense {
  static override className = 'GainedDense';
  override build(inputShape: tf.Shape | tf.Shape[]): void {
    super.build(inputShape);
    this.addParameter('gain', [this.units], {initialize: () => tf.fill([this.units], 2)});
  }
  override call(inputs: tf.Tensor | tf.Tensor[]): tf.Tensor {
    return tf.tidy(() => tf.mul(super.call(inputs), this.parameters.get('gain')!.read()));
  }
}
tf.serialization.registerClass(GainedDense);

describeEachBackend('a subclass from outside', () => {
  const make = () => new GainedDense({units: 3, weightInitializer: glorot(1), inputShape: [4]});

  test('adds a weight, runs, learns and round-trips', async () => {
    const model = alone(make());
    const x = normal([8, 4], 2);
    const plain = new TransposedDense({units: 3, weightInitializer: glorot(1)});
    expectClose(model.predict(x) as tf.Tensor, tf.mul(plain.apply(x) as tf.Tensor, 2));
    expect(model.countParams()).toBe(18);
    await expectJsonRoundTrip(model, x);
    await expectLearns(model, x, normal([8, 3], 3), /\.(weight|bias|gain)$/);
    expectDisposesAll(() => alone(make()), x);
  });
});

describeEachBackend('RMSNorm', () => {
  const make = () => new RMSNorm({epsilon: 1e-3, inputShape: [5, 4]});

  test('normalises, learns, round-trips and keeps no tensors', async () => {
    const model = alone(make());
    const x = normal([6, 5, 4], 1);
    const expected = tf.div(x, tf.sqrt(tf.add(tf.mean(tf.square(x), -1, true), 1e-3)));
    expectClose(model.predict(x) as tf.Tensor, expected);
    expectNoLeak(() => model.predict(x));
    await expectJsonRoundTrip(model, x);
    await expectLearns(model, x, tf.mul(expected, tf.tensor1d([2, 0.5, -1, 3])), /\.weight$/, {
      learningRate: 0.2,
    });
    expectDisposesAll(() => alone(make()), x);
  });
});

describeEachBackend('TokenEmbedding', () => {
  const make = (extra = {}) =>
    new TokenEmbedding({
      vocabSize: 6,
      hiddenSize: 4,
      weightInitializer: glorot(4),
      inputShape: [3],
      dtype: 'int32',
      ...extra,
    });
  const ids = () =>
    tf.tensor2d(
      [
        [0, 5, 2],
        [2, 2, 1],
      ],
      undefined,
      'int32',
    );

  test('looks up, learns, round-trips and keeps no tensors', async () => {
    const model = alone(make());
    const x = ids();
    const rows = (model.getWeights()[0] as tf.Tensor2D).arraySync();
    expectClose(
      model.predict(x) as tf.Tensor,
      tf.tensor3d([
        [rows[0], rows[5], rows[2]],
        [rows[2], rows[2], rows[1]],
      ]),
    );
    expectNoLeak(() => model.predict(x));
    await expectJsonRoundTrip(model, x);
    await expectLearns(model, x, normal([2, 3, 4], 3), /\.weight$/, {learningRate: 0.2});
    expectDisposesAll(() => alone(make()), x);
  });

  test('leaves the other rows unchanged', async () => {
    const model = alone(make());
    const before = (model.getWeights()[0] as tf.Tensor2D).arraySync();
    model.compile({optimizer: tf.train.sgd(0.5), loss: 'meanSquaredError'});
    await model.fit(ids(), normal([2, 3, 4], 3), {epochs: 1, verbose: 0});
    const after = (model.getWeights()[0] as tf.Tensor2D).arraySync();
    expect(after[3]).toEqual(before[3]);
    expect(after[4]).toEqual(before[4]);
    expect(after[2]).not.toEqual(before[2]);
  });

  test('in 16 bits it takes half the bytes and stays frozen', async () => {
    const before = tf.memory().numBytes;
    const layer = make({storage: 'bfloat16'});
    layer.build();
    expect(tf.memory().numBytes - before).toBe(2 * 6 * 4);
    expect(layer.trainableWeights).toEqual([]);
    await expectJsonRoundTrip(alone(make({storage: 'float16'})), ids());
  });
});

describeEachBackend('RotaryEmbedding', () => {
  const scaling = {
    type: 'llama3',
    factor: 8,
    lowFreqFactor: 1,
    highFreqFactor: 4,
    originalMaxPositionEmbeddings: 16,
  } as const;
  const make = (extra = {}) => new RotaryEmbedding({headDim: 8, theta: 100, inputShape: [2, 5, 8], ...extra});

  test('rotates by position, keeps lengths and round-trips', async () => {
    const model = alone(make());
    const x = normal([1, 2, 5, 8], 1) as tf.Tensor4D;
    const y = model.predict(x) as tf.Tensor4D;
    const at = (tensor: tf.Tensor4D, t: number) => tensor.slice([0, 0, t, 0], [-1, -1, 1, -1]);
    expectClose(at(y, 0), at(x, 0)); // position 0 is not rotated
    expectClose(tf.sum(tf.square(y), -1), tf.sum(tf.square(x), -1));
    const [first, second] = [x.arraySync()[0][0][3][1], x.arraySync()[0][0][3][5]];
    const angle = 3 * 100 ** (-2 / 8);
    expectClose([y.arraySync()[0][0][3][1]], [first * Math.cos(angle) - second * Math.sin(angle)]);
    await expectJsonRoundTrip(model, x);
    await expectJsonRoundTrip(alone(make({scaling})), x);
    await expectJsonRoundTrip(alone(make({scaling: {type: 'linear', factor: 4}})), x);
    expectNoLeak(() => model.predict(x));
  });

  test('scores depend only on the distance of positions', () => {
    const layer = make();
    const [q, k] = [normal([1, 1, 1, 8], 1), normal([1, 1, 1, 8], 2)];
    const score = (m: number, n: number) =>
      tf.sum(
        tf.mul(
          layer.apply(q, layer.tables(1, m)) as tf.Tensor,
          layer.apply(k, layer.tables(1, n)) as tf.Tensor,
        ),
      );
    expectClose(score(7, 3), score(14, 10));
  });

  test('tables of given positions equal those of the range', () => {
    const layer = make({scaling});
    const [range, given] = [layer.tables(3, 4), layer.tablesAt(tf.tensor2d([[4, 5, 6]], undefined, 'int32'))];
    expectClose(given.cos, range.cos, {relative: 0});
    expectClose(given.sin, range.sin, {relative: 0});
  });

  test('refuses an odd head size', () => {
    expect(() => make({headDim: 7})).toThrow('headDim: expected an even number, got 7');
  });
});

describeEachBackend('SwiGLU', () => {
  const make = (extra = {}) =>
    new SwiGLU({intermediateSize: 6, weightInitializer: glorot(3), inputShape: [5, 4], ...extra});

  test('is down(silu(gate) · up), learns, round-trips and keeps no tensors', async () => {
    const layer = make();
    const model = alone(layer);
    const x = normal([2, 5, 4], 1);
    const [gate, up, down] = layer.getWeights() as tf.Tensor2D[];
    const flat = x.reshape([-1, 4]) as tf.Tensor2D;
    const g = tf.matMul(flat, gate, false, true);
    const inner = tf.mul(tf.mul(g, tf.sigmoid(g)), tf.matMul(flat, up, false, true)) as tf.Tensor2D;
    expectClose(model.predict(x) as tf.Tensor, tf.matMul(inner, down, false, true).reshape([2, 5, 4]));
    expectNoLeak(() => model.predict(x));
    await expectJsonRoundTrip(model, x);
    await expectJsonRoundTrip(alone(make({useBias: true, storage: 'bfloat16'})), x);
    await expectLearns(model, x, normal([2, 5, 4], 9), /_proj\.weight$/, {epochs: 60});
    expectDisposesAll(() => alone(make()), x);
  });

  test('freezes as a whole', () => {
    const layer = make();
    alone(layer);
    layer.trainable = false;
    expect(layer.trainableWeights).toEqual([]);
    expect(layer.sublayers.map(([name]) => name)).toEqual(['gate_proj', 'up_proj', 'down_proj']);
  });
});

describeEachBackend('TiedHead', () => {
  const build = () => {
    const embedding = new TokenEmbedding({
      vocabSize: 6,
      hiddenSize: 4,
      weightInitializer: glorot(5),
      inputShape: [3],
      dtype: 'int32',
    });
    return {embedding, model: tf.sequential({layers: [embedding, new TiedHead({embedding})]})};
  };
  const ids = () =>
    tf.tensor2d(
      [
        [0, 5, 2],
        [2, 2, 1],
      ],
      undefined,
      'int32',
    );

  test('shares the table: logits, count, gradient from both ends', async () => {
    const {embedding, model} = build();
    const table = embedding.getWeights()[0] as tf.Tensor2D;
    const x = ids();
    const rows = tf.gather(table, x.flatten() as tf.Tensor1D) as tf.Tensor2D;
    expectClose(model.predict(x) as tf.Tensor, tf.matMul(rows, table, false, true).reshape([2, 3, 6]));
    expect(model.countParams()).toBe(24);
    expectNoLeak(() => model.predict(x));
    await expectLearns(model, x, normal([2, 3, 6], 3), /embedding.*\.weight$/i, {
      learningRate: 0.1,
      epochs: 80,
    });
    expectDisposesAll(() => build().model, x);
  });

  test('a frozen table gives the same logits', () => {
    const {embedding, model} = build();
    const trained = (model.predict(ids()) as tf.Tensor).dataSync();
    embedding.trainable = false;
    expectClose(model.predict(ids()) as tf.Tensor, trained);
  });

  test('refuses to be made from a config and says why', () => {
    const {embedding} = build();
    const head = new TiedHead({embedding});
    expect(() => TiedHead.fromConfig(TiedHead as never, head.getConfig())).toThrow(
      'embedding: expected the TokenEmbedding whose table it shares, got none. A config cannot hold a shared layer',
    );
  });
});
