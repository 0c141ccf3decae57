import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {ValueHead} from '../../layers/valueHead.ts';
import {readValueHead} from '../../models/valueHeadFile.ts';
import {SafetensorsFile} from '../../quant/safetensors/safetensorsFile.ts';
import {writeSafetensors} from '../../quant/safetensors/writeSafetensors.ts';
import {describeEachBackend, expectNoLeak} from '../describeEachBackend.ts';
import {expectClose} from '../expectClose.ts';
import {alone, expectDisposesAll, expectJsonRoundTrip, expectLearns} from '../layers/aloneInSequential.ts';
import {normal} from '../layers/ops/expectSameFunction.ts';
import {errorOf, inFolder, logitsOf, stirAdapter, tinyIds, tinyLlama} from './tinyLlama.ts';

const KEYS = ['v_head.summary.weight', 'v_head.summary.bias'];
const int32 = (rows: number[][]) => tf.tensor2d(rows, undefined, 'int32');

describeEachBackend('ValueHead', () => {
  const make = (extra = {}) => new ValueHead({inputShape: [4], seed: 3, dropout: 0, ...extra});

  test('is x · wᵀ + b, drawn within 1/√C, learns and round-trips', async () => {
    const layer = make();
    const model = alone(layer);
    const x = normal([2, 3, 4], 2);
    const [weight, bias] = layer.getWeights() as [tf.Tensor2D, tf.Tensor1D];
    expect([...weight.dataSync(), ...bias.dataSync()].every((w) => w !== 0 && Math.abs(w) <= 0.5)).toBe(true);
    expectClose(layer.apply(x) as tf.Tensor, tf.sum(tf.mul(x, weight), -1, true).add(bias));
    expectNoLeak(() => layer.apply(x));
    await expectJsonRoundTrip(model, normal([2, 4], 2));
    await expectLearns(model, normal([16, 4], 2), normal([16, 1], 3), /\.(weight|bias)$/);
    expectDisposesAll(() => alone(make()), normal([2, 4], 2));
  });

  test('drops inputs in training alone, the same ones for a seed', () => {
    const layer = make({dropout: 0.5});
    const x = tf.ones([1, 64, 4]);
    const of = (kwargs = {}) => (layer.apply(x, kwargs) as tf.Tensor).dataSync();
    expect(new Set(of()).size).toBe(1);
    expect(new Set(of({training: true, seed: 1})).size).toBeGreaterThan(5);
    expect(of({training: true, seed: 1})).toEqual(of({training: true, seed: 1}));
    expect(() => make({dropout: 1})).toThrow('ValueHead dropout: expected 0 ≤ p < 1, got 1');
  });
});

describeEachBackend('a model with a value head', () => {
  test('scores positions, and in the pass of its losses', () => {
    const model = tinyLlama({}, {seed: 1}).addValueHead({seed: 2});
    const {weight, bias} = model.valueHead!;
    const values = model.values({inputIds: tinyIds});
    expect(values.shape).toEqual([2, 5]);
    const hidden = model.forward(int32(tinyIds)).reshape([10, 8]) as tf.Tensor2D;
    const expected = tf
      .matMul(hidden, weight.read() as tf.Tensor as tf.Tensor2D, false, true)
      .add(bias.read());
    expectClose(values, expected.reshape([2, 5]));
    const scores = model.values({inputIds: tinyIds}, {at: [2, 4]});
    expectClose(
      scores,
      [values.arraySync() as number[][]].flatMap(([a, b]) => [a[2], b[4]]),
    );
    const labels = [
      [-100, -100, 3, 18, 7],
      [-100, -100, -100, -100, 11],
    ];
    const {losses, values: beside} = model.tokenLosses({inputIds: tinyIds, labels}, {values: true});
    expect(losses.shape).toEqual([4]);
    const [first, second] = values.arraySync() as number[][];
    expectClose(beside!, [first[1], first[2], first[3], second[3]]);
    const logits = tf.gather(model.predict(tinyIds).reshape([10, -1]), [1, 2, 3, 8]); // at the places of the labels
    const expectedLosses = tf.neg(tf.logSoftmax(tf.div(logits, 0.5))).arraySync() as number[][];
    expectClose(
      model.tokenLosses({inputIds: tinyIds, labels}, {temperature: 0.5}).losses,
      [3, 18, 7, 11].map((label, i) => expectedLosses[i][label]),
    );
    expectNoLeak(() => model.values({inputIds: tinyIds}, {training: true}));
    model.dispose();
  });

  test('trains the head beside the adapter, and differentiates both', async () => {
    const before = tf.memory().numTensors;
    for (const headFirst of [true, false]) {
      const model = tinyLlama({}, {seed: 1});
      if (headFirst) model.addValueHead({dropout: 0});
      model.applyLoRA({rank: 2, targetModules: 'all-linear'});
      if (!headFirst) model.addValueHead({dropout: 0});
      stirAdapter(model);
      const trained = model.trainableParameters();
      expect(trained.size).toBe(2 * 14 + 2);
      expect([...trained.keys()].filter((key) => !key.includes('lora_')).sort()).toEqual([...KEYS].sort());
      const lines: string[] = [];
      model.summary(undefined, undefined, (line) => lines.push(line));
      expect(lines.find((line) => line.startsWith('v_head.summary (ValueHead)'))).toMatch(
        /\[1, 8\] \[1\] +9 +9$/,
      );
      const variables = [...trained.values()];
      const score = () => tf.sum(tf.square(model.values({inputIds: tinyIds}, {at: [4, 3], training: true})));
      const {value, grads} = tf.variableGrads(score as () => tf.Scalar, variables);
      for (const variable of [trained.get(KEYS[0])!, variables[1]]) {
        const gradient = grads[variable.name].dataSync()[1];
        const at = (shift: number) =>
          tf.tidy(() => {
            const values = Array.from(variable.dataSync(), (value, i) => value + (i === 1 ? shift : 0));
            const kept = variable.clone();
            variable.assign(tf.tensor(values, variable.shape));
            const result = score().dataSync()[0];
            variable.assign(kept);
            return result;
          });
        expectClose([(at(0.01) - at(-0.01)) / 0.02], [gradient], {relative: 2e-2});
      }
      tf.dispose([value, grads]);
      model.dispose();
    }
    expect(tf.memory().numTensors).toBe(before);
  });

  test('is written beside an adapter or a model, and read back', () =>
    inFolder(async (folder) => {
      const model = tinyLlama({}, {seed: 1}).addValueHead({seed: 5});
      const expected = [...model.values({inputIds: tinyIds}).dataSync()];
      await model.save(join(folder, 'model'));
      model.applyLoRA({rank: 2});
      await model.saveAdapter(join(folder, 'adapter'));
      const logits = logitsOf(model);
      model.removeValueHead();
      expect(model.valueHead).toBeUndefined();
      for (const name of ['model', 'adapter']) {
        const file = SafetensorsFile.open(join(folder, name, 'value_head.safetensors'));
        expect(file.names().sort()).toEqual([...KEYS].sort());
        expect(file.info(KEYS[0])).toMatchObject({dtype: 'F32', shape: [1, 8]});
        expect(file.metadata).toEqual({format: 'pt'});
        file.close();
        await model.loadValueHead(join(folder, name));
        expect(model.valueHead!.trainableWeights).toEqual([]);
        expect([...model.values({inputIds: tinyIds}).dataSync()]).toEqual(expected);
        const other = await readValueHead(join(folder, name), 8);
        expect([...model.values({inputIds: tinyIds}, {head: other}).dataSync()]).toEqual(expected);
        other.dispose();
        model.removeValueHead();
      }
      await model.loadValueHead(join(folder, 'model'), {trainable: true});
      expect(model.valueHead!.trainableWeights).toHaveLength(2);
      expect(logitsOf(model)).toEqual(logits);
      model.dispose();
      const again = (await import('../../models/llama/llama.ts')).LlamaForCausalLM;
      (await again.fromPretrained(join(folder, 'model'))).dispose(); // with no tensor of a head in model.safetensors
    }));

  test('takes its dropout from the config', () => {
    const model = tinyLlama({summaryDropoutProb: 0.25}).addValueHead();
    expect(model.valueHead!.dropout).toBe(0.25);
    expect(model.removeValueHead().addValueHead({dropout: 0}).valueHead!.dropout).toBe(0);
    expect(model.formatConfig('float32').summary_dropout_prob).toBe(0.25);
    model.dispose();
    expect(() => tinyLlama({summaryDropoutProb: 2})).toThrow('summaryDropoutProb: expected 0 ≤ p < 1, got 2');
  });

  test('refuses what does not fit', () =>
    inFolder(async (folder) => {
      const model = tinyLlama();
      expect(() => model.values({inputIds: tinyIds})).toThrow(
        'values: expected a model with a value head, got none. Call addValueHead() or loadValueHead(folder) first.',
      );
      const tensor = (name: string, shape: number[]) => ({
        name,
        dtype: 'F32' as const,
        shape,
        data: new Float32Array(tf.util.sizeFromShape(shape)),
      });
      const file = join(folder, 'value_head.safetensors');
      const message = async () => (await errorOf(() => model.loadValueHead(folder))).message;
      expect(await errorOf(() => model.loadValueHead(folder))).toMatchObject({code: 'FILE_NOT_FOUND'});
      await writeSafetensors(file, [tensor(KEYS[0], [1, 4]), tensor(KEYS[1], [1])]);
      expect(await message()).toMatch("expected [1,8] for the model's hidden size, got [1,4]");
      await writeSafetensors(file, [tensor(KEYS[0], [1, 8])]);
      expect(await message()).toMatch('v_head.summary.bias');
      await writeSafetensors(
        file,
        [...KEYS, 'v_head.other'].map((name) => tensor(name, [1])),
      );
      expect(await message()).toMatch('tensor v_head.other');
      expect(model.valueHead).toBeUndefined();
      model.addValueHead();
      expect(() => model.addValueHead()).toThrow('expected a model without a value head, got one');
      expect(() => model.values({inputIds: tinyIds}, {at: [1, 5]})).toThrow(
        'values at: expected 2 positions from 0 to 4, one for each row, got [1,5]',
      );
      model.dispose();
    }));
});
