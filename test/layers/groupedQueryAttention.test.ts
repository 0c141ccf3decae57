import * as tf from '@tensorflow/tfjs';
import {GroupedQueryAttention, type GroupedQueryAttentionArgs} from '../../layers/groupedQueryAttention.ts';
import {KeyValueCache} from '../../layers/keyValueCache.ts';
import {LoRADense} from '../../layers/loraDense.ts';
import {causalBias} from '../../layers/ops/causalBias.ts';
import {describeEachBackend, expectNoLeak} from '../describeEachBackend.ts';
import {expectClose} from '../expectClose.ts';
import {alone, expectDisposesAll, expectJsonRoundTrip, expectLearns} from './aloneInSequential.ts';
import {normal} from './ops/expectSameFunction.ts';

const make = (extra: Partial<GroupedQueryAttentionArgs> = {}) =>
  new GroupedQueryAttention({
    heads: 4,
    keyValueHeads: 2,
    weightInitializer: tf.initializers.glorotUniform({seed: 5}),
    inputShape: [6, 16],
    ...extra,
  });
const input = () => normal([2, 6, 16], 1) as tf.Tensor3D;
const part = (x: tf.Tensor3D, begin: number, count: number) => x.slice([0, begin, 0], [-1, count, -1]);

describeEachBackend('GroupedQueryAttention', () => {
  test('runs alone, round-trips, learns and keeps no tensors', async () => {
    const model = alone(make());
    const x = input();
    expect((model.predict(x) as tf.Tensor).shape).toEqual([2, 6, 16]);
    expectNoLeak(() => model.predict(x));
    await expectJsonRoundTrip(model, x);
    await expectJsonRoundTrip(
      alone(make({useBias: true, headDim: 6, ropeTheta: 50, storage: 'bfloat16', layerIndex: 3})),
      x,
    );
    const scaling = {
      type: 'llama3',
      factor: 8,
      lowFreqFactor: 1,
      highFreqFactor: 4,
      originalMaxPositionEmbeddings: 4,
    } as const;
    await expectJsonRoundTrip(alone(make({ropeScaling: scaling})), x);
    await expectLearns(model, x, normal([2, 6, 16], 9), /_proj\.weight$/, {epochs: 100});
    expectDisposesAll(() => alone(make()), x);
  });

  test('has the shapes of a checkpoint', () => {
    const layer = make({headDim: 6});
    alone(layer);
    expect(
      [layer.q_proj, layer.k_proj, layer.v_proj, layer.o_proj].map(
        (proj) => (proj as LoRADense['base']).weight.logicalShape,
      ),
    ).toEqual([
      [24, 16],
      [12, 16],
      [12, 16],
      [16, 24],
    ]);
    expect(layer.sublayers.map(([name]) => name)).toEqual([
      'q_proj',
      'k_proj',
      'v_proj',
      'o_proj',
      'rotary_emb',
    ]);
  });

  test('does not see the future', () => {
    const layer = make();
    const x = input();
    const y = layer.apply(x) as tf.Tensor3D;
    const changed = tf.concat([part(x, 0, 4), normal([2, 2, 16], 7) as tf.Tensor3D], 1);
    expectClose(part(layer.apply(changed) as tf.Tensor3D, 0, 4), part(y, 0, 4));
  });

  test.each([0, 1])(
    'equals itself when run in pieces with a cache, as layer %i of the cache',
    (layerIndex) => {
      const layers = Array.from({length: layerIndex + 1}, (_, i) => make({layerIndex: i}));
      const layer = layers[layerIndex];
      const x = input();
      const whole = layer.apply(x) as tf.Tensor3D;
      const cache = new KeyValueCache();
      const pieces = [
        [0, 3],
        [3, 1],
        [4, 2],
      ].map(([begin, count]) => {
        // Without a model's tables each layer counts its own positions, even when an earlier layer is already ahead.
        const outputs = layers.map((each) => each.apply(part(x, begin, count), {cache}) as tf.Tensor3D);
        return outputs[layerIndex];
      });
      expectClose(tf.concat(pieces, 1), whole);
      expect(cache.lengthOf(layerIndex)).toBe(6);
      expect(cache.lengthOf(layerIndex + 1)).toBe(0);
      cache.dispose();
    },
  );

  test('takes a padding mask', () => {
    const layer = make();
    const x = input();
    const mask = tf.tensor2d(
      [
        [0, 0, 1, 1, 1, 1],
        [1, 1, 1, 1, 1, 1],
      ],
      undefined,
      'int32',
    );
    const y = layer.apply(x, {bias: causalBias(6, 6, mask)}) as tf.Tensor3D;
    // Rotary scores depend only on distances, so a left-padded row equals the row without padding.
    const row = x.slice([0, 2, 0], [1, 4, -1]);
    expectClose(y.slice([0, 2, 0], [1, 4, -1]), layer.apply(row) as tf.Tensor);
    expectClose(y.slice([1, 0, 0], [1, 6, -1]), layer.apply(x.slice([1, 0, 0], [1, 6, -1])) as tf.Tensor);
  });

  test('adapts a projection in place', () => {
    const layer = make();
    alone(layer);
    const x = input();
    const before = layer.apply(x) as tf.Tensor;
    layer.trainable = false;
    layer.q_proj = LoRADense.fromDense(layer.q_proj, {rank: 2});
    expectClose(layer.apply(x) as tf.Tensor, before, {relative: 0});
    layer.trainable = true;
    layer.k_proj.trainable = layer.v_proj.trainable = layer.o_proj.trainable = false;
    expect(layer.trainableWeights.map((weight) => weight.originalName.split('.').at(-1))).toEqual([
      'lora_A',
      'lora_B',
    ]);
  });

  test.each([
    [
      'a number of heads that the key-value heads do not divide',
      {keyValueHeads: 3},
      'keyValueHeads: expected a divisor of 4 heads, got 3',
    ],
    [
      'a size that the heads do not divide',
      {heads: 5, keyValueHeads: 5},
      'headDim: expected an even number, got 16 / 5 heads',
    ],
    ['an odd head', {headDim: 3}, 'headDim: expected an even number, got 3'],
  ])('refuses %s', (_, extra, message) => {
    expect(() => alone(make(extra))).toThrow(message);
  });
});
