import * as tf from '@tensorflow/tfjs';
import {LoRADense} from '../../../layers/loraDense.ts';
import {loadAdapter, saveAdapter} from '../../../models/keras/adapterFolders.ts';
import {applyLoRA} from '../../../models/keras/applyLoRA.ts';
import {mergeLoRA} from '../../../models/keras/mergeLoRA.ts';
import {quantize} from '../../../models/keras/quantize.ts';
import {AdamW} from '../../../src/training/optimizers/adamW.ts';
import {describeEachBackend} from '../../describeEachBackend.ts';
import {expectClose} from '../../expectClose.ts';
import {errorOf, tinyLlama} from '../tinyLlama.ts';
import {branched, classifier, normal, recurrent, savedAndLoaded, seeded} from './models.ts';

const [ROWS, SIZE] = [12, 6];

/** Returns a model's predictions for fixed inputs, one array per output. */
function predictions(model: tf.LayersModel): number[][] {
  return tf.tidy(() => {
    const inputs = model.inputs.map((_, i) => normal([ROWS, SIZE], 100 + i));
    const outputs = [model.predict(inputs.length === 1 ? inputs[0] : inputs)].flat();
    return outputs.map((output) => Array.from(output.dataSync()));
  });
}

function expectSame(got: number[][], expected: number[][], relative = 1e-6): void {
  expect(got).toHaveLength(expected.length);
  for (const [i, values] of expected.entries()) expectClose(got[i], values, {relative});
}

/** Returns values by name, because freezing a layer changes the order of the model's weights. */
const weightsOf = (model: tf.LayersModel) =>
  Object.fromEntries(model.weights.map((weight) => [weight.name, Array.from(weight.read().dataSync())]));

const adaptedIn = (model: tf.LayersModel): LoRADense[] =>
  model.layers.flatMap((layer) =>
    layer instanceof tf.LayersModel ? adaptedIn(layer) : layer instanceof LoRADense ? [layer] : [],
  );

const messageOf = async (run: () => unknown) => (await errorOf(run)).message;

/** Fits random targets for some steps with Keras's own loop. */
async function train(model: tf.LayersModel, optimizer: tf.Optimizer, epochs = 3): Promise<number[]> {
  model.compile({optimizer, loss: 'meanSquaredError'});
  const x = model.inputs.map((_, i) => normal([ROWS, SIZE], 100 + i));
  const y = model.outputs.map(({shape}, i) => normal([ROWS, shape[1] as number], 200 + i));
  const {history} = await model.fit(x, y, {epochs, batchSize: ROWS, shuffle: false, verbose: 0});
  tf.dispose([x, y]);
  model.optimizer.dispose();
  return history.loss as number[];
}

describeEachBackend('applyLoRA', () => {
  test.each([
    ['adam', () => tf.train.adam(0.05)],
    ['AdamW', () => new AdamW({learningRate: 0.05})],
  ])(
    'trains only the adapters of a sequential classifier with %s, and leaves no tensor',
    async (_, optimizer) => {
      const before = tf.memory().numTensors;
      const base = classifier();
      const [expected, weights, tensors] = [predictions(base), weightsOf(base), tf.memory().numTensors];
      const adapted = applyLoRA(base, {rank: 2});
      expectSame(predictions(adapted), expected);
      expect(tf.memory().numTensors).toBe(tensors + 6); // A and B of three layers: no weight is copied
      expect(adapted.trainableWeights.map(({originalName}) => originalName)).toEqual([
        'fc1.lora_A',
        'fc1.lora_B',
        'fc2.lora_A',
        'fc2.lora_B',
        'head.lora_A',
        'head.lora_B',
      ]);
      const losses = await train(adapted, optimizer(), 5);
      expect(losses[4]).toBeLessThan(losses[0]);
      expect(predictions(adapted)).not.toEqual(expected);
      expect(weightsOf(base)).toEqual(weights);
      expect(predictions(base)).toEqual(expected);
      adapted.dispose();
      expect(tf.memory().numTensors).toBe(tensors);
      expect(predictions(base)).toEqual(expected);
      base.dispose();
      expect(tf.memory().numTensors).toBe(before);
    },
  );

  test('keeps the adapted model usable after its base is disposed', () => {
    const before = tf.memory().numTensors;
    const base = classifier();
    const expected = predictions(base);
    const adapted = applyLoRA(base, {rank: 2, targetModules: ['fc2']});
    base.dispose();
    expectSame(predictions(adapted), expected);
    adapted.dispose();
    expect(tf.memory().numTensors).toBe(before);
  });

  test('adapts a functional model with a nested model, a layer used twice, two inputs and two outputs', async () => {
    const base = branched();
    const [expected, weights, tensors] = [predictions(base), weightsOf(base), tf.memory().numTensors];
    const adapted = applyLoRA(base, {rank: 2});
    expect(
      adaptedIn(adapted)
        .map(({name}) => name)
        .sort(),
    ).toEqual(['fc', 'second', 'shared', 'tower.fc']);
    expect(tf.memory().numTensors).toBe(tensors + 8);
    expectSame(predictions(adapted), expected);
    await train(adapted, tf.train.adam(0.05));
    expect(predictions(adapted)[1]).not.toEqual(expected[1]);
    expect(weightsOf(base)).toEqual(weights); // the moving averages too
    const [trained, merged] = [predictions(adapted), mergeLoRA(adapted)];
    expectSame(predictions(merged), trained, 1e-5);
    const again = await savedAndLoaded(adapted);
    expectSame(predictions(again), trained);
    await train(again, tf.train.adam(0.05));
    expect(predictions(again)).not.toEqual(trained);
    const mergedAgain = mergeLoRA(again);
    expectSame(predictions(mergedAgain), predictions(again), 1e-5);
    expectSame(predictions(base), expected);
    const loaded = tf.memory().numTensors;
    mergedAgain.dispose();
    expect(tf.memory().numTensors).toBe(loaded - 8); // four kernels and biases
    again.dispose();
    for (const model of [merged, adapted]) model.dispose();
    expectSame(predictions(base), expected);
  });

  test('frees everything of a model that uses layers twice', () => {
    const base = branched();
    const tensors = tf.memory().numTensors;
    const adapted = applyLoRA(base, {rank: 2});
    const merged = mergeLoRA(adapted);
    adapted.dispose();
    merged.dispose();
    expect(tf.memory().numTensors).toBe(tensors);
    expect(predictions(base)).toHaveLength(2);
    base.dispose();
  });

  test('adapts, predicts and merges the same after Keras saved and loaded the base or the adapted model', async () => {
    const before = tf.memory().numTensors;
    const base = classifier();
    const loaded = await savedAndLoaded(base);
    expectSame(predictions(loaded), predictions(base));
    const adapted = applyLoRA(loaded, {rank: 2, useDoRA: true, useRsLoRA: true});
    await train(adapted, tf.train.adam(0.05));
    const again = await savedAndLoaded(adapted);
    const expected = predictions(adapted);
    expectSame(predictions(again), expected);
    const merged = mergeLoRA(again);
    expectSame(predictions(merged), expected, 1e-5);
    expect(merged.layers.slice(1).map((layer) => layer.getClassName())).toEqual(['Dense', 'Dense', 'Dense']);
    const plain = await savedAndLoaded(merged);
    expectSame(predictions(plain), predictions(merged));
    for (const model of [plain, merged, again, adapted, loaded, base]) model.dispose();
    expect(tf.memory().numTensors).toBe(before);
  });

  test.each([
    ['a name', {targetModules: ['fc2']}, ['fc2']],
    ['the end of a nested name', {targetModules: ['fc']}, ['fc', 'tower.fc']],
    ['a nested name', {targetModules: ['tower.fc']}, ['tower.fc']],
    ['a RegExp', {targetModules: /tower\.fc|second/}, ['second', 'tower.fc']],
    ['a string of Python', {targetModules: '.*(fc|second)', excludeModules: ['tower.fc']}, ['fc', 'second']],
    ['all but some', {excludeModules: ['shared', 'second']}, ['fc', 'tower.fc']],
  ])('adapts layers by %s', (_, options, names) => {
    const base = names.includes('fc2') ? classifier() : branched();
    const adapted = applyLoRA(base, {rank: 1, ...options});
    expect(
      adaptedIn(adapted)
        .map(({name}) => name)
        .sort(),
    ).toEqual(names);
    expect(adapted.trainableWeights).toHaveLength(2 * names.length);
    adapted.dispose();
    base.dispose();
  });

  test('keeps the mask of a layer', () => {
    const base = tf.sequential({
      layers: [
        tf.layers.masking({inputShape: [4, SIZE]}),
        tf.layers.dense({name: 'fc', units: 3, ...seeded(8)}),
        tf.layers.lstm({units: 2, ...seeded(9)}),
      ],
    });
    const adapted = applyLoRA(base, {rank: 1});
    const [got, expected] = [adapted, base].map((model) =>
      tf.tidy(() => {
        const x = normal([2, 4, SIZE], 1).mul(
          tf.tensor3d([
            [[1], [1], [0], [0]],
            [[1], [0], [0], [1]],
          ]),
        );
        return Array.from((model.predict(x) as tf.Tensor).dataSync());
      }),
    );
    expectClose(got, expected, {relative: 1e-6});
    adapted.dispose();
    base.dispose();
  });

  test('leaves everything as it was when a merge fails', async () => {
    const before = tf.memory().numTensors;
    const inner = tf.sequential({
      layers: [
        tf.layers.dense({name: 'fc', units: 6, inputShape: [SIZE], ...seeded(1)}),
        tf.layers.batchNormalization({name: 'norm'}),
      ],
    });
    const input = tf.input({shape: [SIZE]});
    const head = tf.layers.dense({name: 'head', units: 2, ...seeded(2)});
    const output = head.apply(inner.apply(input)) as tf.SymbolicTensor;
    const base = tf.model({inputs: input, outputs: output});
    const adapted = applyLoRA(base, {rank: 1});
    const expected = predictions(adapted);
    const {loraA, loraB} = adaptedIn(adapted).find(({name}) => name === 'head')!;
    const fill = (weight: tf.LayerVariable, value: number) => {
      const filled = tf.fill(weight.shape as number[], value);
      weight.write(filled);
      filled.dispose();
    };
    for (const weight of [loraA, loraB]) fill(weight, 1e30);
    expect(await messageOf(() => mergeLoRA(adapted))).toMatch(/merged weight of head/);
    fill(loraB, 0);
    expectSame(predictions(adapted), expected);
    for (const model of [adapted, base]) model.dispose();
    expect(tf.memory().numTensors).toBe(before);
  });

  test('leaves recurrent, wrapped and custom layers as they are, wired as they were', async () => {
    const base = recurrent();
    const adapted = applyLoRA(base, {rank: 1});
    expect(adaptedIn(adapted).map(({name}) => name)).toEqual(['before', 'state', 'after']);
    expectSame(predictions(adapted), predictions(base));
    await train(adapted, tf.train.adam(0.05));
    expect(adapted.getLayer('twice')).toBe(base.getLayer('twice'));
    const merged = mergeLoRA(adapted);
    expectSame(predictions(merged), predictions(adapted), 1e-5);
    for (const model of [merged, adapted, base]) model.dispose();
  });

  test('adds a second adapter beside the first, and saves each', async () => {
    const base = classifier();
    const first = applyLoRA(base, {rank: 2, targetModules: ['fc1']});
    expect(await messageOf(() => applyLoRA(first, {rank: 2}))).toMatch(
      /adapter "default": expected a new name/,
    );
    const second = applyLoRA(first, {rank: 1, adapterName: 'second', targetModules: ['fc1', 'fc2']});
    expect(adaptedIn(second).map(({activeAdapters}) => activeAdapters)).toEqual([['second'], ['second']]);
    const files = new Map<string, Blob>();
    await saveAdapter(second, files, {adapterName: 'default'});
    expect(JSON.parse(await files.get('adapter_config.json')!.text())).toMatchObject({
      r: 2,
      target_modules: ['fc1'],
      task_type: null,
    });
    for (const model of [second, first, base]) model.dispose();
  });

  test('saves and loads an adapter with any ranks and names of its layers', async () => {
    const before = tf.memory().numTensors;
    const base = branched();
    const tensors = tf.memory().numTensors;
    const adapted = applyLoRA(base, {
      rank: 2,
      targetModules: /fc|second|tower\.fc/,
      rankPattern: {'tower\\.fc': 3},
      alphaPattern: {second: 5},
    });
    await train(adapted, tf.train.adam(0.05));
    const expected = predictions(adapted);
    const files = new Map<string, Blob>();
    await saveAdapter(await savedAndLoaded(adapted), files, {baseModelNameOrPath: 'branched'});
    adapted.dispose();
    const loaded = await loadAdapter(base, files);
    expectSame(predictions(loaded), expected);
    expect(loaded.trainableWeights).toEqual([]);
    const trained = await loadAdapter(base, files, {adapterName: 'again', trainable: true});
    expect(trained.trainableWeights).toHaveLength(6);
    for (const model of [loaded, trained]) model.dispose();
    const only = applyLoRA(base, {rank: 1, targetModules: /fc/});
    const few = new Map<string, Blob>();
    await saveAdapter(only, few);
    const onlyAgain = await loadAdapter(base, few);
    expect(adaptedIn(onlyAgain).map(({name}) => name)).toEqual(['fc']);
    for (const model of [only, onlyAgain, base]) model.dispose();
    expect(tensors).toBeGreaterThan(before);
  });

  test('does not change the model when a folder is damaged', async () => {
    const base = classifier();
    const [expected, other] = [predictions(base), branched()];
    const adapted = applyLoRA(other, {rank: 1, targetModules: ['second']});
    const files = new Map<string, Blob>();
    await saveAdapter(adapted, files);
    const config = JSON.parse(await files.get('adapter_config.json')!.text());
    files.set('adapter_config.json', new Blob([JSON.stringify({...config, target_modules: ['fc1']})]));
    const tensors = tf.memory().numTensors;
    expect(await messageOf(() => loadAdapter(base, files))).toMatch(/expected tensor base_model\.model\.fc1/);
    expect(tf.memory().numTensors).toBe(tensors);
    expect(predictions(base)).toEqual(expected);
    for (const model of [adapted, other, base]) model.dispose();
  });

  test.each(['nf4', 'int8'])(
    'trains a model quantized to %s, merges it on request, and frees what belongs to it',
    async (type) => {
      const before = tf.memory().numTensors;
      const base = classifier();
      const [weights, tensors] = [weightsOf(base), tf.memory().numTensors];
      const small = await quantize(base, {type, skipModules: ['head']});
      expect(small.layers.slice(1).map((layer) => layer.getClassName())).toEqual([
        'QuantizedDense',
        'QuantizedDense',
        'Dense',
      ]);
      const quantized = predictions(small);
      const adapted = applyLoRA(small, {rank: 2});
      expectSame(predictions(adapted), quantized, 1e-5);
      const losses = await train(adapted, tf.train.adam(0.05), 5);
      expect(losses[4]).toBeLessThan(losses[0]);
      const trained = predictions(adapted);
      expect(await messageOf(() => mergeLoRA(adapted))).toMatch(
        /merge of fc1: expected a base in 16 or 32 bit/,
      );
      const merged = mergeLoRA(adapted, {dequantize: true});
      expectSame(predictions(merged), trained, 1e-5);
      expect(await messageOf(() => quantize(adapted, 'nf4'))).toMatch(
        /quantize layer fc1: expected no adapters/,
      );
      expect(weightsOf(base)).toEqual(weights);
      small.dispose();
      expectSame(predictions(adapted), trained);
      for (const model of [merged, adapted]) model.dispose();
      expect(tf.memory().numTensors).toBe(tensors);
      base.dispose();
      expect(tf.memory().numTensors).toBe(before);
    },
  );

  test('refuses by name what cannot be adapted, and unknown options', async () => {
    const network = tf.sequential({
      layers: [
        tf.layers.conv1d({name: 'conv', filters: 2, kernelSize: 1, inputShape: [3, SIZE]}),
        tf.layers.timeDistributed({name: 'steps', layer: tf.layers.dense({units: 2})}),
        tf.layers.flatten({name: 'flat'}),
      ],
    });
    const withHead = tf.sequential({layers: [network, tf.layers.dense({name: 'head', units: 2})]});
    const llama = tinyLlama();
    const tensors = tf.memory().numTensors;
    const message = (model: tf.LayersModel, options: object) => messageOf(() => applyLoRA(model, options));
    expect(await message(network, {rank: 1})).toBe(
      `applyLoRA model ${network.name}: expected at least one dense layer, got none. ` +
        'Its layers: conv (Conv1D), steps (TimeDistributed), flat (Flatten).',
    );
    expect(await message(withHead, {targetModules: ['conv'], rank: 1})).toMatch(
      /conv cannot be adapted: .*Conv1D/,
    );
    expect(await message(withHead, {targetModules: ['steps'], rank: 1})).toMatch(
      /steps cannot be adapted: .*TimeDistributed\. A dense layer alone works on the last axis/,
    );
    expect(await message(withHead, {targetModules: ['haed'], rank: 1})).toMatch(/Nearest: head/);
    expect(await message(withHead, {r: 4})).toMatch(/Use rank\./);
    expect(await message(withHead, {rank: 9})).toMatch(/LoRA rank for head: expected an integer from 1 to 2/);
    expect(await messageOf(() => applyLoRA({} as tf.LayersModel))).toMatch(/expected a tf\.LayersModel/);
    expect(await messageOf(() => applyLoRA(llama, {rank: 1}))).toMatch(/Use model\.applyLoRA\(…\)/);
    expect(await messageOf(() => mergeLoRA(withHead))).toMatch(/expected layers with adapters, got none/);
    expect(await messageOf(() => saveAdapter(withHead, new Map(), {name: 'x'} as object))).toMatch(
      /saveAdapter name/,
    );
    expect(tf.memory().numTensors).toBe(tensors);
    llama.dispose();
    withHead.dispose();
  });
});
