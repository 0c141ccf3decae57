import * as tf from '@tensorflow/tfjs';
import {GroupedQueryAttention} from '../../layers/groupedQueryAttention.ts';
import {withoutAllocation} from '../../layers/parameter.ts';
import type {ForwardOptions} from '../../models/causalLM.ts';
import type {LlamaConfig} from '../../models/llama/config.ts';
import {DecoderBlock} from '../../models/llama/decoderBlock.ts';
import {LlamaForCausalLM} from '../../models/llama/llama.ts';
import {resolveConfig} from '../../models/llama/resolveConfig.ts';
import type {StorageDtype} from '../../quant/float16.ts';
import {describeEachBackend, expectNoLeak} from '../describeEachBackend.ts';
import {expectClose} from '../expectClose.ts';
import {alone, expectDisposesAll, expectJsonRoundTrip, expectLearns} from '../layers/aloneInSequential.ts';
import {normal} from '../layers/ops/expectSameFunction.ts';
import {errorOf, inFolder, logitsOf, stirAdapter, tinyConfig, tinyIds, tinyLlama} from './tinyLlama.ts';

const int32 = (rows: number[][]) => tf.tensor2d(rows, undefined, 'int32');
const labels = [
  [-100, -100, 3, 18, 7],
  [-100, 2, 9, 0, -100],
];
const batch = {inputIds: tinyIds, labels};

/** Measures the most bytes alive at the end of any kernel of `run`, above those before it. */
function peakBytes(run: () => tf.TensorContainer): number {
  const engine = tf.engine();
  const original = engine.runKernel;
  const start = tf.memory().numBytes;
  let peak = 0;
  engine.runKernel = ((...args: Parameters<typeof original>) => {
    const result = original.apply(engine, args);
    peak = Math.max(peak, tf.memory().numBytes - start);
    return result;
  }) as typeof original;
  try {
    tf.dispose(run());
  } finally {
    engine.runKernel = original;
  }
  return peak;
}

function gradientsOf(model: LlamaForCausalLM, options = {}) {
  const {value, grads} = tf.variableGrads(
    () => model.lossSum(batch, {training: true, ...options}),
    [...model.trainableParameters().values()],
  );
  return {value, grads};
}

describeEachBackend('LlamaDecoderBlock', () => {
  const config = resolveConfig(tinyConfig);
  const make = () => new DecoderBlock({config, layerIndex: 0, inputShape: [4, 8]});

  test('works alone, round-trips, learns and keeps no tensor', async () => {
    const model = alone(make());
    const x = normal([3, 4, 8], 1);
    expect((model.predict(x) as tf.Tensor).shape).toEqual([3, 4, 8]);
    expectNoLeak(() => model.predict(x));
    await expectJsonRoundTrip(model, x);
    await expectLearns(model, x, normal([3, 4, 8], 2), /\.weight$/, {epochs: 60});
    expectDisposesAll(() => alone(make()), x);
  });
});

describeEachBackend('CausalLM', () => {
  let model: LlamaForCausalLM;
  beforeEach(() => {
    model = tinyLlama();
  });
  afterEach(() => model.dispose());

  test('is a tf.LayersModel: layers, getLayer, weights', async () => {
    expect(model).toBeInstanceOf(tf.LayersModel);
    expect(model.layers.map(({name}) => name)).toEqual([
      'input_ids',
      'model.embed_tokens',
      'model.layers.0',
      'model.layers.1',
      'model.norm',
      'lm_head',
    ]);
    expect(model.getLayer('model.layers.1.self_attn')).toBeInstanceOf(GroupedQueryAttention);
    expect(model.getLayer('model.layers.0.mlp.gate_proj').name).toBe('model.layers.0.mlp.gate_proj');
    expect(model.getLayer(1)).toBe(model.embed_tokens);
    expect(model.getLayer('model.norm')).toBe(model.norm);
    const {code, message} = await errorOf(() => model.getLayer('model.layers.0.self_attn.q_porj'));
    expect([code, message]).toEqual([
      'INVALID_ARGUMENT',
      expect.stringContaining('Nearest: model.layers.0.self_attn.q_proj'),
    ]);
    expect(model.countParams()).toBe(
      [...model.namedParameters().values()].reduce((sum, {size}) => sum + size, 0),
    );
  });

  test('predict accepts rows or a tensor, and keeps no tensor', () => {
    const ids = int32(tinyIds);
    const logits = model.predict(tinyIds);
    expect(logits.shape).toEqual([2, 5, 19]);
    expectClose(model.predict(ids), logits, {relative: 0});
    expectClose(model.predict([ids]), logits, {relative: 0});
    expectNoLeak(() => model.predict(ids));
    expectNoLeak(() => model.forward(ids));
  });

  test.each([
    [
      'an id out of the vocabulary',
      [[1, 19]],
      'VOCABULARY_MISMATCH',
      'token 1 of sequence 0: expected an id from 0 to 18, got 19',
    ],
    ['a negative id', [[1], [-1]], 'VOCABULARY_MISMATCH', 'token 0 of sequence 1'],
    ['half an id', [[0.5]], 'VOCABULARY_MISMATCH', 'got 0.5'],
    [
      'too long a sequence',
      [Array(17).fill(1)],
      'INVALID_ARGUMENT',
      'expected at most 16 tokens (max_position_embeddings), got 17',
    ],
    ['no rows', [], 'SHAPE_MISMATCH', 'expected rows of one length with at least one token, got [0, 0]'],
    ['an empty row', [[]], 'SHAPE_MISMATCH', 'got [1, 0]'],
    ['rows of two lengths', [[1, 2], [3]], 'SHAPE_MISMATCH', 'got [2, 2 or 1]'],
  ])('predict refuses %s', async (_, ids, code, message) => {
    const before = tf.memory().numTensors;
    const error = await errorOf(() => model.predict(ids));
    expect(error.code).toBe(code);
    expect(error.message).toContain(message);
    expect(tf.memory().numTensors).toBe(before);
  });

  test('predict refuses a tensor that is not a matrix', async () => {
    const ids = tf.tensor1d([1, 2], 'int32');
    expect((await errorOf(() => model.predict(ids))).message).toBe(
      'predict inputIds: expected [*, *], got [2]',
    );
  });

  test('computes the same in pieces with a cache, with left padding too', () => {
    const mask = [
      [0, 0, 1, 1, 1],
      [1, 1, 1, 1, 1],
    ];
    const positions = [
      [0, 0, 0, 1, 2],
      [0, 1, 2, 3, 4],
    ];
    for (const padded of [false, true]) {
      const options = (end: number, begin: number): ForwardOptions =>
        padded
          ? {
              attentionMask: int32(mask.map((row) => row.slice(0, end))),
              positionIds: positions.map((row) => row.slice(begin, end)),
            }
          : {};
      const whole = model.forward(int32(tinyIds), options(5, 0));
      const cache = model.newCache();
      const pieces = [
        [0, 2],
        [2, 4],
        [4, 5],
      ].map(([begin, end]) =>
        model.forward(int32(tinyIds.map((row) => row.slice(begin, end))), {...options(end, begin), cache}),
      );
      const joined = tf.concat(pieces, 1);
      const real = (x: tf.Tensor, row: number) => x.slice([row, padded && row === 0 ? 2 : 0, 0], [1, -1, -1]);
      for (const row of [0, 1]) expectClose(real(joined, row), real(whole, row)); // padded positions have no meaning
      expect(cache.length).toBe(5);
      cache.dispose();
      if (!padded) continue;
      const short = model.forward(int32([tinyIds[0].slice(2)]));
      expectClose(whole.slice([0, 2, 0], [1, 3, -1]), short);
    }
  });

  test('computes packed sequences as each alone', () => {
    const [first, second] = [
      [1, 5, 3],
      [9, 0],
    ];
    const packed = model.forward(int32([[...first, ...second]]), {
      attentionMask: int32([[1, 1, 1, 2, 2]]),
      positionIds: [[0, 1, 2, 0, 1]],
    });
    expectClose(packed.slice([0, 0, 0], [1, 3, -1]), model.forward(int32([first])));
    expectClose(packed.slice([0, 3, 0], [1, 2, -1]), model.forward(int32([second])));
  });

  test('names a mask of another length', () => {
    expect(() => model.forward(int32(tinyIds), {attentionMask: int32([[1, 1]])})).toThrow(
      /attention (mask: expected \[\*, 5\]|segments: expected \[2, 5\]), got \[1, 2\]/, // the latter for a kernel
    );
  });

  test('lossSum is the summed cross-entropy of the shifted labels', () => {
    const logits = tf.tidy(() => tf.logSoftmax(model.predict(tinyIds)).arraySync() as number[][][]);
    let expected = 0;
    for (const [row, rowLabels] of labels.entries()) {
      for (let t = 1; t < 5; t++) if (rowLabels[t] !== -100) expected -= logits[row][t - 1][rowLabels[t]];
    }
    expect(model.targetCount(batch)).toBe(6);
    expectClose(model.lossSum(batch), [expected]);
    const tensors = {
      inputIds: int32(tinyIds),
      labels: int32(labels),
      attentionMask: int32(tinyIds.map((row) => row.map(() => 1))),
    };
    expectClose(model.lossSum(tensors), [expected]);
    expectNoLeak(() => model.lossSum(tensors));
  });

  test.each([
    ['an empty batch', {inputIds: [], labels: []}, 'INVALID_ARGUMENT', 'got an empty batch'],
    ['empty rows', {inputIds: [[]], labels: [[]]}, 'INVALID_ARGUMENT', 'got an empty batch'],
    [
      'no labels',
      {inputIds: [[1, 2]]},
      'SHAPE_MISMATCH',
      'batch labels: expected [1,2] (the shape of inputIds), got none',
    ],
    ['labels of another length', {inputIds: [[1, 2]], labels: [[1]]}, 'SHAPE_MISMATCH', 'got [1,1]'],
    [
      'ragged rows',
      {inputIds: [[1, 2], [3]], labels: [[1, 2], [3]]},
      'SHAPE_MISMATCH',
      'got [2,2 or 1]. Pad rows',
    ],
    [
      'a mask of another shape',
      {inputIds: [[1, 2]], labels: [[1, 2]], attentionMask: [[1]]},
      'SHAPE_MISMATCH',
      'batch attentionMask',
    ],
    [
      'nothing to learn',
      {inputIds: [[1, 2]], labels: [[1, -100]]},
      'INVALID_ARGUMENT',
      'expected at least one label that counts',
    ],
    ['one token per row', {inputIds: [[1]], labels: [[1]]}, 'INVALID_ARGUMENT', 'leaves nothing to predict'],
    [
      'a label out of range',
      {inputIds: [[1, 2]], labels: [[1, 19]]},
      'VOCABULARY_MISMATCH',
      'expected -100 or an id from 0 to 18, got 19',
    ],
    ['an id out of range', {inputIds: [[1, 99]], labels: [[1, 2]]}, 'VOCABULARY_MISMATCH', 'got 99'],
    [
      'too long',
      {inputIds: [Array(17).fill(1)], labels: [Array(17).fill(1)]},
      'INVALID_ARGUMENT',
      'expected at most 16 tokens',
    ],
  ])('lossSum refuses %s', async (_, wrong, code, message) => {
    const before = tf.memory().numTensors;
    const error = await errorOf(() => model.lossSum(wrong as never));
    expect(error.code).toBe(code);
    expect(error.message).toContain(message);
    expect(tf.memory().numTensors).toBe(before);
  });

  test('refuses any use after dispose', async () => {
    const gone = tinyLlama();
    gone.applyLoRA({rank: 1});
    gone.dispose();
    expect(gone.isDisposed).toBe(true);
    const uses: (() => unknown)[] = [
      () => gone.predict(tinyIds),
      () => gone.forward(int32(tinyIds)),
      () => gone.logitsOf(normal([1, 8], 1)),
      () => gone.lossSum(batch),
      () => gone.generate([1]),
      () => gone.stream([1]),
      () => gone.chat([]),
      () => gone.applyLoRA({adapterName: 'x', rank: 1}),
      () => gone.setAdapter('default'),
      () => gone.deleteAdapter('default'),
      () => gone.withoutAdapter(() => 1),
      () => gone.mergeLoRA(),
      () => gone.unmergeLoRA(),
      () => gone.fuseLoRA(),
      () => gone.saveAdapter('/tmp/never'),
      () => gone.loadAdapter('/tmp/never'),
      () => gone.save('/tmp/never'),
      () => gone.namedParameters(),
      () => gone.trainableParameters(),
    ];
    for (const use of uses)
      expect([use.toString(), (await errorOf(use)).code]).toEqual([use.toString(), 'DISPOSED']);
  });
});

describeEachBackend('gradient checkpointing', () => {
  test('gives the same gradients, of adapters and of whole models', () => {
    for (const adapters of [true, false]) {
      const model = tinyLlama({tieWordEmbeddings: adapters, numHiddenLayers: 3});
      if (adapters) {
        model.applyLoRA({rank: 2, useDoRA: true});
        stirAdapter(model);
      }
      model.gradientCheckpointing = false;
      const plain = gradientsOf(model);
      model.gradientCheckpointing = true;
      const recomputed = gradientsOf(model);
      expectClose(recomputed.value, plain.value, {relative: 1e-6});
      expect(Object.keys(recomputed.grads).sort()).toEqual(Object.keys(plain.grads).sort());
      for (const name of Object.keys(plain.grads)) expectClose(recomputed.grads[name], plain.grads[name]);
      expectNoLeak(() => {
        const {value, grads} = gradientsOf(model);
        return [value, grads];
      });
      tf.dispose([plain.value, plain.grads, recomputed.value, recomputed.grads]);
      model.dispose();
    }
  });

  test('keeps the inputs of blocks on the host, or refuses to', () => {
    const model = tinyLlama({numHiddenLayers: 3});
    model.applyLoRA({rank: 2, useDoRA: true}); // no kernel of a whole stack supports it
    const recomputed = gradientsOf(model);
    model.gradientCheckpointing = 'offload';
    if (['cpu', 'wasm', 'tensorflow'].includes(tf.getBackend())) {
      const got = gradientsOf(model);
      for (const [name, gradient] of Object.entries(recomputed.grads))
        expectClose(got.grads[name], gradient, {relative: 0});
      tf.dispose([got.value, got.grads]);
    } else {
      expect(() => gradientsOf(model)).toThrow(/^gradientCheckpointing on \w+: expected true or false where/);
    }
    expect(() => {
      model.gradientCheckpointing = 'cpu' as 'offload';
    }).toThrow('gradientCheckpointing: expected true, false or \'offload\', got "cpu"');
    tf.dispose([recomputed.value, recomputed.grads]);
    model.dispose();
  });

  test('drops the same values in forward and backward, with and without a seed', () => {
    const model = tinyLlama();
    model.applyLoRA({rank: 2, dropout: 0.5});
    stirAdapter(model);
    const plain = () => {
      model.gradientCheckpointing = false;
      const result = gradientsOf(model, {seed: 5});
      model.gradientCheckpointing = true;
      return result;
    };
    const [expected, got] = [plain(), gradientsOf(model, {seed: 5})];
    expectClose(got.value, expected.value);
    for (const name of Object.keys(expected.grads)) expectClose(got.grads[name], expected.grads[name]);
    // Without a seed: the slope along the gradient is its squared length, if both passes saw the same mask.
    const random = jest.spyOn(Math, 'random').mockReturnValue(0.25);
    const once = gradientsOf(model);
    expect(random).toHaveBeenCalled();
    const [fixed] = [gradientsOf(model, {seed: Math.floor(0.25 * 2 ** 31)})];
    expectClose(once.value, fixed.value);
    for (const name of Object.keys(fixed.grads)) expectClose(once.grads[name], fixed.grads[name]);
    random.mockRestore();
    tf.dispose([expected, got, once, fixed].map(({value, grads}) => [value, grads]));
    model.dispose();
  });

  test('needs less memory', () => {
    const model = tinyLlama({hiddenSize: 32, intermediateSize: 64, numHiddenLayers: 6});
    model.applyLoRA({rank: 1});
    const peak = (on: boolean) => {
      model.gradientCheckpointing = on;
      return peakBytes(() => {
        const {value, grads} = gradientsOf(model);
        return [value, grads];
      });
    };
    peak(true);
    expect(peak(true)).toBeLessThan(0.6 * peak(false));
    model.dispose();
  });
});

describeEachBackend('training', () => {
  test('changes only adapters, and lowers the loss', () => {
    const model = tinyLlama();
    model.applyLoRA({rank: 2});
    const values = () =>
      new Map(
        [...model.namedParameters()].map(([name, parameter]) => [
          name,
          Array.from(parameter.read().dataSync()),
        ]),
      );
    const before = values();
    const variables = [...model.trainableParameters().values()];
    const optimizer = tf.train.adam(0.05);
    const loss = () => tf.tidy(() => model.lossSum(batch).dataSync()[0]);
    const first = loss();
    for (let step = 0; step < 10; step++) {
      optimizer.minimize(() => model.lossSum(batch, {training: true}), false, variables);
    }
    expect(loss()).toBeLessThan(0.7 * first);
    const moved = [...values()]
      .filter(([name, now]) => !tf.util.arraysEqual(now, before.get(name)!))
      .map(([name]) => name);
    expect(moved.sort()).toEqual([...before.keys()].filter((name) => name.includes('.lora_')).sort());
    optimizer.dispose();
    model.dispose();
  });
});

/** A model as in another package: a Llama whose config has a cap on its logits. */
interface CappedConfig extends LlamaConfig {
  logitCap: number;
}

class CappedLlama extends LlamaForCausalLM {
  static override className = 'CappedLlama';
  readonly logitCap: number;
  constructor(config: CappedConfig, storage?: StorageDtype) {
    super(config, storage);
    this.logitCap = config.logitCap;
  }
  override logitsOf(hidden: tf.Tensor): tf.Tensor {
    return tf.tidy(() => tf.mul(tf.tanh(tf.div(super.logitsOf(hidden), this.logitCap)), this.logitCap));
  }
  override formatConfig(dtype: StorageDtype): Record<string, unknown> {
    return {...super.formatConfig(dtype), logit_cap: this.logitCap};
  }
  static override parseConfig(json: Record<string, unknown>, where: string): CappedConfig {
    return {...LlamaForCausalLM.parseConfig(json, where), logitCap: json.logit_cap as number};
  }
}

describeEachBackend('a CausalLM subclass from outside', () => {
  test('adds to config and graph, adapts, saves and loads', () =>
    inFolder(async (folder) => {
      const before = tf.memory().numTensors;
      const config = {...resolveConfig(tinyConfig), logitCap: 0.5};
      const model: CappedLlama = CappedLlama.fromConfig(config);
      expect(model).toBeInstanceOf(CappedLlama);
      expect(Math.max(...logitsOf(model).map(Math.abs))).toBeLessThanOrEqual(0.5);
      await model.save(folder);
      const copy: CappedLlama = await CappedLlama.fromPretrained(folder);
      expect(copy.logitCap).toBe(0.5);
      expect(logitsOf(copy)).toEqual(logitsOf(model));
      copy.applyLoRA({rank: 2});
      expect(copy.trainableParameters().size).toBe(28);
      model.dispose();
      copy.dispose();
      const unfilled = withoutAllocation(() => new CappedLlama(config));
      expect((await errorOf(() => unfilled.predict(tinyIds))).code).toBe('MISSING_TENSOR');
      unfilled.dispose();
      expect(tf.memory().numTensors).toBe(before);
    }));
});
