import {copyFileSync, mkdtempSync, rmSync} from 'node:fs';
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

describeEachBackend('a model equals transformers', () => {
  let model: Llama | undefined;
  let tensorsBefore: number;

  beforeEach(() => {
    tensorsBefore = tf.memory().numTensors;
  });

  afterEach(() => {
    model?.dispose();
    model = undefined;
    expect(tf.memory().numTensors).toBe(tensorsBefore);
  });

  test.each(goldenCases(({greedy}) => greedy !== undefined))(
    '$name: logits, loss, greedy tokens',
    async (golden) => {
      const {inputs, tolerances} = golden;
      const expected = readGoldens(join(golden.folder, 'expected.safetensors'));
      model = await Llama.fromPretrained(join(FIXTURES, golden.model));

      const logits = logitsOf(model, inputs);
      await expectClose(
        logits,
        goldenNamed(expected, 'logits'),
        tolerances.logits,
        inputs.attentionMask?.flat(),
      );
      logits.dispose();

      expect(model.targetCount(inputs)).toBe(golden.targetCount);
      const lossSum = model.lossSum(inputs);
      expectRelative((await lossSum.data())[0] / golden.targetCount, golden.loss!, tolerances.loss);
      lossSum.dispose();

      await expectSameTokens(model, golden.greedy!);
      await expectSameTokens(model, golden.greedyStopped!);
    },
  );

  test.each(['transformers4', 'transformers4-type'])(
    'reads config.json with the spelling of %s',
    async (spelling) => {
      const golden = goldenCases(({name}) => name === 'tied-gqa-llama3')[0];
      const expected = readGoldens(join(golden.folder, 'expected.safetensors'));
      const folder = mkdtempSync(join(tmpdir(), 'tfjs-lora-'));
      try {
        copyFileSync(join(FIXTURES, golden.model, 'model.safetensors'), join(folder, 'model.safetensors'));
        copyFileSync(join(FIXTURES, 'spellings', `${spelling}.json`), join(folder, 'config.json'));
        model = await Llama.fromPretrained(folder);
      } finally {
        rmSync(folder, {recursive: true});
      }
      const logits = logitsOf(model, golden.inputs);
      const mask = golden.inputs.attentionMask?.flat();
      await expectClose(logits, goldenNamed(expected, 'logits'), golden.tolerances.logits, mask);
      logits.dispose();
    },
  );

  test('reads a sharded model', async () => {
    const golden = goldenCases(({name}) => name === 'tied-gqa-llama3')[0];
    const expected = readGoldens(join(golden.folder, 'expected.safetensors'));
    model = await Llama.fromPretrained(join(FIXTURES, `${golden.model}-sharded`));
    const logits = logitsOf(model, golden.inputs);
    const mask = golden.inputs.attentionMask?.flat();
    await expectClose(logits, goldenNamed(expected, 'logits'), golden.tolerances.logits, mask);
    logits.dispose();
  });

  test('keeps sequences packed in one row apart', async () => {
    const golden = goldenCases(({name}) => name === 'packed')[0];
    const expected = readGoldens(join(golden.folder, 'expected.safetensors'));
    model = await Llama.fromPretrained(join(FIXTURES, golden.model));
    const {inputIds, positionIds} = golden.inputs;
    const attentionMask = [golden.lengths!.flatMap((length, i) => Array(length).fill(i + 1))];
    const logits = logitsOf(model, {...golden.inputs, attentionMask});
    await expectClose(logits, goldenNamed(expected, 'logits'), golden.tolerances.logits);
    logits.dispose();

    // The loss counts no label across a border, so it equals that of the separate sequences.
    const starts = positionIds![0].flatMap((position, t) => (position === 0 ? [t] : []));
    const labels = [inputIds[0].map((id, t) => (starts.includes(t) ? -100 : id))];
    const together = model.lossSum({inputIds, labels, attentionMask, positionIds});
    let alone = 0;
    for (const [i, start] of starts.entries()) {
      const row = [inputIds[0].slice(start, start + golden.lengths![i])];
      const sum = model.lossSum({inputIds: row, labels: row});
      alone += (await sum.data())[0];
      sum.dispose();
    }
    expectRelative((await together.data())[0], alone, golden.tolerances.loss);
    together.dispose();
  });

  test.each(goldenCases(({name}) => name.startsWith('full-gradients')))(
    '$name: the gradient of every weight when all train',
    async (golden) => {
      const expected = readGoldens(join(golden.folder, 'expected.safetensors'));
      model = await Llama.fromPretrained(join(FIXTURES, golden.model));
      const {loss, gradients} = await model.computeGradients(golden.inputs);
      expectRelative(loss, golden.loss!, golden.tolerances.loss);
      await expectSameGradients(gradients, expected, golden.tolerances.gradient);
      tf.dispose(gradients);
    },
  );

  test('predict computes the logits of a batch without padding', async () => {
    const golden = goldenCases(({name}) => name === 'untied-mha')[0];
    const expected = readGoldens(join(golden.folder, 'expected.safetensors'));
    model = await Llama.fromPretrained(join(FIXTURES, golden.model));
    const inputIds = tf.tensor2d(golden.inputs.inputIds, undefined, 'int32');
    const logits = model.predict(inputIds) as tf.Tensor;
    await expectClose(logits, goldenNamed(expected, 'logits'), golden.tolerances.logits);
    tf.dispose([inputIds, logits]);
  });
});
