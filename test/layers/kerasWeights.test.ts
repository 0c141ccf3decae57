import * as tf from '@tensorflow/tfjs';
import {LoRADense} from '../../layers/loraDense.ts';
import {QuantizedDense} from '../../layers/quantizedDense.ts';
import {TransposedDense} from '../../layers/transposedDense.ts';
import type {Quantizer} from '../../quant/quantizer.ts';
import {registerQuantizer} from '../../quant/quantizerRegistry.ts';
import {describeEachBackend} from '../describeEachBackend.ts';
import {errorOf} from '../models/tinyLlama.ts';
import {givenConfig} from './aloneInSequential.ts';
import {normal} from './ops/expectSameFunction.ts';

const QUANTIZATIONS = [
  {type: 'nf4'},
  {type: 'nf4', doubleQuant: true},
  {type: 'fp4', blockSize: 32},
  {type: 'int8'},
  {type: 'int8', threshold: 0.002},
] as const;

/** A quantizer of a library that uses this one. */
const hidden: Quantizer = {
  name: 'test-hidden',
  quantize: (values, shape) => ({
    quantType: 'test-hidden',
    shape,
    dtype: 'float32',
    byteLength: 1,
    dequantize: () => Float32Array.from(values),
    dequantizeRows: (begin, end) => Float32Array.from(values.slice(begin * shape[1], end * shape[1])),
  }),
};

/** Makes a layer with weights that a new one would not have, in `bfloat16` or as given. */
function trainedDense(storage: 'bfloat16' | 'float32' = 'bfloat16'): TransposedDense {
  const dense = new TransposedDense({units: 12, name: 'projection', storage});
  dense.build([null, 70]);
  tf.tidy(() => {
    dense.weight.write(dense.weight.stored(tf.mul(normal([12, 70], 3), 0.001)));
    dense.bias?.write(normal([12], 4));
  });
  return dense;
}

async function loraOver(base: TransposedDense, options = {}): Promise<LoRADense> {
  const layer = LoRADense.fromDense(base, {rank: 3, seed: 1, ...options});
  tf.tidy(() => {
    layer.loraB.write(tf.mul(normal([12, 3], 5), 0.01));
    layer.adapter().magnitude?.write(tf.mul(layer.adapter().magnitude!.read(), 1.25));
  });
  return layer;
}

/** Makes a model of one layer that is already built. */
function modelOf(layer: tf.layers.Layer): tf.LayersModel {
  const input = tf.input({shape: [70]});
  return tf.model({inputs: input, outputs: layer.apply(input) as tf.SymbolicTensor});
}

const predictions = (model: tf.LayersModel) =>
  tf.tidy(() => Array.from((model.predict(normal([2, 70], 1)) as tf.Tensor).dataSync()));

/** Expects the same predictions, up to the difference between two runs of a backend. */
function expectSame(model: tf.LayersModel, expected: number[]): void {
  const got = predictions(model);
  for (const [i, value] of expected.entries()) expect(Math.abs(got[i] - value)).toBeLessThan(2e-4);
}

const valuesOf = (layer: tf.layers.Layer) =>
  layer.getWeights().map((weight) => Array.from(weight.dataSync()));

async function savedAndLoaded(model: tf.LayersModel): Promise<tf.LayersModel> {
  let saved: tf.io.ModelArtifacts | undefined;
  const handler = tf.io.withSaveHandler(async (artifacts) => {
    saved = artifacts;
    return {modelArtifactsInfo: {dateSaved: new Date(), modelTopologyType: 'JSON'}};
  });
  await model.save(handler);
  const {weightSpecs, weightData, ...json} = saved!;
  const written = JSON.parse(JSON.stringify(json));
  return tf.loadLayersModel(tf.io.fromMemory({...written, weightSpecs, weightData}));
}

async function cloned(model: tf.LayersModel): Promise<tf.LayersModel> {
  const copy = await tf.models.modelFromJSON({modelTopology: JSON.parse(model.toJSON() as string)} as never);
  copy.setWeights(model.getWeights());
  return copy;
}

const LAYERS: [string, () => Promise<tf.layers.Layer>][] = [
  ...QUANTIZATIONS.map((quantization): [string, () => Promise<tf.layers.Layer>] => [
    `QuantizedDense ${JSON.stringify(quantization)}`,
    () => QuantizedDense.fromDense(trainedDense(), quantization),
  ]),
  ...QUANTIZATIONS.map((quantization): [string, () => Promise<tf.layers.Layer>] => [
    `LoRADense over ${JSON.stringify(quantization)}`,
    async () => loraOver(await QuantizedDense.fromDense(trainedDense(), quantization), {alpha: 5}),
  ]),
  [
    'DoRA over nf4',
    async () =>
      loraOver(await QuantizedDense.fromDense(trainedDense(), {type: 'nf4'}), {
        useDoRA: true,
        useRsLoRA: true,
      }),
  ],
  [
    'merged, over float32',
    async () => {
      const layer = await loraOver(trainedDense('float32'));
      layer.merge();
      return layer;
    },
  ],
  [
    'merged with a bias, over float32',
    async () => {
      const layer = await loraOver(trainedDense('float32'), {loraBias: true});
      layer.adapter().bias!.write(normal([12], 7));
      layer.merge();
      return layer;
    },
  ],
  [
    'merged DoRA, over bfloat16',
    async () => {
      const layer = await loraOver(trainedDense(), {useDoRA: true});
      layer.merge();
      return layer;
    },
  ],
  [
    'merged, over double-quantized nf4 of bfloat16',
    async () => {
      const base = await QuantizedDense.fromDense(trainedDense(), {type: 'nf4', doubleQuant: true});
      const layer = await loraOver(base);
      layer.merge({dequantize: true});
      return layer;
    },
  ],
  [
    'several adapters, one inactive and one weighted',
    async () => {
      const layer = await loraOver(await QuantizedDense.fromDense(trainedDense(), {type: 'nf4'}));
      for (const [seed, name] of ['my_second', 'useDoRA'].entries()) {
        const adapter = layer.addAdapter(name, {rank: 2, seed, useRsLoRA: true});
        adapter.loraB.write(normal([12, 2], 6 + seed));
      }
      layer.activeAdapters = ['useDoRA', 'default'];
      layer.adapter('my_second').trainable = false;
      layer.adapter('useDoRA').weight = 0.5;
      return layer;
    },
  ],
];

describeEachBackend('weights of a layer through Keras', () => {
  test.each(LAYERS)(
    '%s: predicts the same after saving and loading, and after cloning',
    async (name, make) => {
      const model = modelOf(await make());
      const expected = predictions(model);
      const loaded = await savedAndLoaded(model);
      expectSame(loaded, expected);
      const [layer, copy] = [model, loaded].map(({layers}) => layers[1]);
      expect(givenConfig(copy)).toEqual(givenConfig(layer));
      expect(valuesOf(copy)).toEqual(valuesOf(layer)); // bit for bit
      expect(copy.weights.map(({originalName}) => originalName)).toEqual(
        layer.weights.map(({originalName}) => originalName),
      );
      if (!name.includes('threshold')) {
        const clone = await cloned(model); // Keras needs equal shapes, and those of outliers depend on the values
        expectSame(clone, expected);
        clone.dispose();
      }
      layer.setWeights(copy.getWeights());
      expectSame(model, expected);

      // The weights that a merge set aside come back too.
      if (layer instanceof LoRADense && copy instanceof LoRADense) {
        expect(copy.isMerged).toBe(layer.isMerged);
        expect(copy.activeAdapters).toEqual(layer.activeAdapters);
        for (const each of [layer, copy]) each.unmerge();
        expect(valuesOf(copy)).toEqual(valuesOf(layer));
        expectSame(loaded, predictions(model));
        expect(copy.weights.map(({originalName}) => originalName)).toEqual(
          layer.weights.map(({originalName}) => originalName),
        );
      }
      for (const each of [model, loaded]) each.dispose();
    },
  );

  test('a merged adapter is not added twice', async () => {
    const layer = await loraOver(trainedDense('float32'));
    const plain = modelOf(layer);
    const expected = predictions(plain);
    layer.merge();
    const loaded = await savedAndLoaded(plain);
    for (const [i, value] of predictions(loaded).entries()) expect(value).toBeCloseTo(expected[i], 4);
  });

  test('the type before quantizing comes back', async () => {
    const model = modelOf(await QuantizedDense.fromDense(trainedDense(), {type: 'nf4', doubleQuant: true}));
    const [, layer] = (await savedAndLoaded(model)).layers as QuantizedDense[];
    expect(layer.weight.sourceDtype).toBe('bfloat16');
    expect(layer.weight.matrix()).toMatchObject({valueDtype: 'bfloat16'}); // what its values are rounded to
    expect(layer.weight.byteLength).toBe((model.layers[1] as QuantizedDense).weight.byteLength);
    expect(layer.countParams()).toBe(12 * 70 + 12);
  });

  test('setWeights refuses wrong weights and then writes nothing', async () => {
    const layer = await QuantizedDense.fromDense(trainedDense(), {type: 'nf4'});
    const model = modelOf(layer);
    const expected = predictions(model);
    const weights = layer.getWeights().map((weight) => weight.clone());
    expect(await errorOf(() => layer.setWeights(weights.slice(1)))).toEqual({
      code: 'INVALID_ARGUMENT',
      message: expect.stringMatching(
        /^setWeights of layer projection: expected 4 tensors \(projection\.weight, projection\.weight\.absmax, .*\), got 3$/,
      ),
    });
    expect((await errorOf(() => layer.setWeights([...weights, weights[0]]))).code).toBe('INVALID_ARGUMENT');
    expect((await errorOf(() => layer.setWeights('none' as never))).code).toBe('INVALID_ARGUMENT');
    const [codes, ...rest] = weights;
    expect((await errorOf(() => layer.setWeights([undefined as never, ...rest]))).message).toContain(
      'expected a tensor for projection.weight, got undefined',
    );
    expect((await errorOf(() => layer.setWeights([codes.slice([0], [5]), ...rest]))).message).toMatch(
      /weight projection\.weight: expected int32 \[105\], got int32 \[5\]/,
    );
    expect((await errorOf(() => layer.setWeights([codes.toFloat(), ...rest]))).code).toBe('SHAPE_MISMATCH');
    expectSame(model, expected);

    // Codes of another format, which only the format's numbers show.
    const fewer = rest.map((weight, i) => (i === 0 ? weight.slice([0], [3]) : weight));
    layer.setWeights([codes, ...fewer]);
    expect((await errorOf(() => predictions(model))).message).toMatch(
      /weight projection\.weight\.absmax: expected \[14\], got \[3\]\. Set all weights of the layer/,
    );
    layer.setWeights([codes, rest[0], tf.fill(rest[1].shape, 7), rest[2]]);
    expect((await errorOf(() => predictions(model))).code).toBe('INVALID_ARGUMENT');
    layer.setWeights(weights);
  });

  test('a quantizer that only its own code can read is refused', async () => {
    registerQuantizer(hidden);
    const model = modelOf(await QuantizedDense.fromDense(trainedDense(), {type: 'test-hidden'}));
    expect(await errorOf(() => model.getWeights())).toEqual({
      code: 'UNSUPPORTED',
      message: expect.stringContaining('a matrix that only its quantizer "test-hidden" reads. dequantize()'),
    });
    expect(predictions(model)).toHaveLength(24);
  });
});
