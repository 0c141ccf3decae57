import {mkdtempSync, readFileSync, rmSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {Llama} from '../../src/index.ts';
import {describeEachBackend} from '../describeEachBackend.ts';
import {
  expectClose,
  expectRelative,
  expectSameGradients,
  expectSameTokens,
  FIXTURES,
  goldenCases,
  goldenNamed,
  logitsOf,
  readGoldens,
} from './golden.ts';

jest.setTimeout(120_000);

const CASES = goldenCases(({adapter}) => adapter !== undefined);

describeEachBackend('a model with an adapter equals PEFT', () => {
  let model: Llama;
  let tensorsBefore: number;
  let folder: string;

  beforeEach(() => {
    tensorsBefore = tf.memory().numTensors;
    folder = mkdtempSync(join(tmpdir(), 'tfjs-lora-'));
  });

  afterEach(() => {
    rmSync(folder, {recursive: true});
    model.dispose();
    expect(tf.memory().numTensors).toBe(tensorsBefore);
  });

  describe.each(CASES)('$name', (golden) => {
    const {inputs, tolerances} = golden;
    const expected = readGoldens(join(golden.folder, 'expected.safetensors'));
    const mask = inputs.attentionMask?.flat();
    const adapterFolder = join(golden.folder, 'adapter');

    beforeEach(async () => {
      model = await Llama.fromPretrained(join(FIXTURES, golden.model));
    });

    test("logits, loss and every gradient with PEFT's adapter", async () => {
      await model.loadAdapter(adapterFolder, {trainable: true});
      const logits = logitsOf(model, inputs);
      await expectClose(logits, goldenNamed(expected, 'adapterLogits'), tolerances.logits, mask);
      logits.dispose();

      const {loss, gradients} = await model.computeGradients(inputs);
      expectRelative(loss, golden.adapterLoss!, tolerances.loss);
      await expectSameGradients(gradients, expected, tolerances.gradient);
      tf.dispose(gradients);
    });

    test('greedy tokens, alone and in a left-padded batch', async () => {
      await model.loadAdapter(adapterFolder);
      await expectSameTokens(model, golden.adapterGreedy!);
      await expectSameTokens(model, golden.adapterGreedyBatch!);
    });

    test('merged logits and weight, and unmerged again', async () => {
      const before = logitsOf(model, inputs);
      await model.loadAdapter(adapterFolder);
      const adapted = logitsOf(model, inputs);
      model.mergeLoRA();
      const merged = logitsOf(model, inputs);
      // A 16-bit base keeps its dtype, so the merged weight is rounded: it equals PEFT's merge, rounded the same way.
      const key = expected.has('mergedLogitsRounded') ? 'mergedLogitsRounded' : 'mergedLogits';
      // A different order of sums may round one of 17,430 weights the other way, which changes a logit by 1.4e-4.
      const tolerance = Math.max(tolerances.mergedLogits, key === 'mergedLogits' ? 0 : 3e-4);
      await expectClose(merged, goldenNamed(expected, key), tolerance, mask);
      const [mergedKey] = [...expected.keys()].filter((name) => name.startsWith('merged:'));
      const weight = model.namedParameters().get(mergedKey.slice('merged:'.length))!;
      if (weight.storage === 'float32') {
        await expectClose(weight.read(), goldenNamed(expected, mergedKey), tolerances.weight);
      }
      model.unmergeLoRA();
      const unmerged = logitsOf(model, inputs);
      expect(await unmerged.data()).toEqual(await adapted.data());
      const without = model.withoutAdapter(() => logitsOf(model, inputs));
      expect(await without.data()).toEqual(await before.data());
      tf.dispose([before, adapted, merged, unmerged, without]);
    });

    test("applyLoRA makes PEFT's weights, and saveAdapter writes them as PEFT does", async () => {
      model.applyLoRA(golden.lora as Parameters<Llama['applyLoRA']>[0]);
      const peft = readGoldens(join(adapterFolder, 'adapter_model.safetensors'));
      const ours = new Map([...model.trainableParameters()].map(([key, variable]) => [key, variable.shape]));
      expect(Object.fromEntries(ours)).toEqual(
        Object.fromEntries([...peft].map(([key, {shape}]) => [key, shape])),
      );
      await model.saveAdapter(folder);
      const saved = readGoldens(join(folder, 'adapter_model.safetensors'));
      expect([...saved.keys()].sort()).toEqual([...peft.keys()].sort());
      const config = readConfig(folder);
      const peftConfig = readConfig(adapterFolder);
      for (const field of ['r', 'lora_alpha', 'use_rslora', 'use_dora', 'rank_pattern', 'alpha_pattern']) {
        expect([field, config[field]]).toEqual([field, peftConfig[field]]);
      }
    });

    test('saves a loaded adapter unchanged', async () => {
      await model.loadAdapter(adapterFolder);
      await model.saveAdapter(folder);
      const peft = readGoldens(join(adapterFolder, 'adapter_model.safetensors'));
      const saved = readGoldens(join(folder, 'adapter_model.safetensors'));
      expect([...saved.keys()].sort()).toEqual([...peft.keys()].sort());
      for (const [key, {shape, values}] of peft)
        expect([key, saved.get(key)]).toEqual([key, {shape, values}]);
      const config = readConfig(folder);
      const peftConfig = readConfig(adapterFolder);
      for (const field of Object.keys(config)) {
        if (field === 'peft_version' || field === 'base_model_name_or_path') continue;
        expect([field, sortedList(config[field])]).toEqual([field, sortedList(peftConfig[field])]);
      }
    });
  });
});

function readConfig(folder: string): Record<string, unknown> {
  return JSON.parse(readFileSync(join(folder, 'adapter_config.json'), 'utf8'));
}

/** PEFT writes target modules in the order of a set. */
function sortedList(value: unknown): unknown {
  return Array.isArray(value) ? [...value].sort() : value;
}
