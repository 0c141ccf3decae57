import {mkdtempSync, readdirSync, readFileSync, rmSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join, resolve} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {setWarningHandler} from '../../../quant/warn.ts';
import {AdamW, Llama} from '../../../src/index.ts';
import {describeFastBackends} from '../../describeEachBackend.ts';
import {
  expectClose,
  expectRelative,
  FIXTURES,
  goldenNamed,
  logitsOf,
  readGoldens,
  readJson,
  relativeNorm,
} from '../golden.ts';

jest.setTimeout(120_000);

const FOLDER = resolve('test/parity/modules/fixtures');
const {ids, cases} = readJson<{
  ids: number[][];
  cases: Record<string, {model: string; loss: number; losses: number[]}>;
}>('../modules/fixtures/manifest.json');
const NAMES = Object.keys(cases);
const inputs = {inputIds: ids, labels: ids};
/** Cases that train all 20 steps, one of each kind; the others train a few. */
const WHOLE = ['saved-tied', 'lora-head', 'lora-embedding-dora', 'tokens-two'];

/** Returns an adapter's file without the base's weights, which PEFT adds and ignores unless they were resized. */
function readAdapter(folder: string): ReturnType<typeof readGoldens> {
  const all = readGoldens(join(folder, 'adapter_model.safetensors'));
  const isTied = readFileSync(join(folder, 'adapter_config.json'), 'utf8').includes(
    '"ensure_weight_tying": true',
  );
  const isCopy = (key: string) => isTied && key.includes('lm_head.lora_');
  return new Map([...all].filter(([key]) => !key.includes('.base_layer.') && !isCopy(key)));
}

/**
 * Returns PEFT's gradients by key.
 *
 * @param isTied whether the head's A and B are the embedding's B and A transposed, which PEFT differentiates apart: our
 *   gradient is the sum. Shared memory makes their places in the file ambiguous; their shapes tell
 */
function gradientsOf(expected: ReturnType<typeof readGoldens>, isTied: boolean): Map<string, Float32Array> {
  const all = new Map(
    [...expected].filter(([key]) => key.startsWith('gradient:')).map(([key, value]) => [key.slice(9), value]),
  );
  const gradients = new Map([...all].map(([key, {values}]) => [key, values]));
  if (!isTied) return gradients;
  const [embedding, head] = [
    'base_model.model.model.embed_tokens.lora_embedding',
    'base_model.model.lm_head.lora',
  ];
  for (const [own, other] of [
    ['A', 'B'],
    ['B', 'A'],
  ]) {
    const rows = own === 'A' ? 4 : 32; // A is [4, 96], B is [32, 4]
    const parts = [`${embedding}_${own}`, `${head}_${other}.weight`].map((key) => all.get(key)!);
    const oriented = parts.map(({shape: [height, width], values}) =>
      height === rows ? values : values.map((_, i) => values[(i % height) * width + Math.floor(i / height)]),
    );
    gradients.set(
      `${embedding}_${own}`,
      oriented[0].map((value, i) => value + oriented[1][i]),
    );
    gradients.delete(`${head}_${other}.weight`);
  }
  return gradients;
}

describeFastBackends('adapters of modules, embeddings and tokens equal PEFT', () => {
  let model: Llama;
  let tensorsBefore: number;
  let folder: string;
  let restoreHandler: () => void;
  beforeEach(() => {
    const before = setWarningHandler(() => {});
    restoreHandler = () => setWarningHandler(before);
    tensorsBefore = tf.memory().numTensors;
    folder = mkdtempSync(join(tmpdir(), 'tfjs-lora-'));
  });
  afterEach(() => {
    restoreHandler();
    rmSync(folder, {recursive: true});
    model.dispose();
    expect(tf.memory().numTensors).toBe(tensorsBefore);
  });

  async function expectLogits(expected: ReturnType<typeof readGoldens>, name: string): Promise<void> {
    const logits = logitsOf(model, inputs);
    await expectClose(logits, goldenNamed(expected, name), 3e-5);
    logits.dispose();
  }

  describe.each(NAMES)('%s', (name) => {
    const {model: base, loss, losses} = cases[name];
    const expected = readGoldens(join(FOLDER, name, 'expected.safetensors'));
    const adapter = join(FOLDER, name);
    beforeEach(async () => {
      model = await Llama.fromPretrained(join(FIXTURES, 'models', base));
    });

    test('logits, gradients and 20 steps of AdamW', async () => {
      await model.loadAdapter(adapter, {trainable: true});
      await expectLogits(expected, 'logits');
      const {gradients, loss: ours} = await model.computeGradients(inputs);
      expectRelative(ours, loss, 1e-5);
      const peft = gradientsOf(expected, name === 'lora-tied');
      expect(Object.keys(gradients).sort()).toEqual([...peft.keys()].sort());
      for (const [key, values] of peft)
        expect([key, relativeNorm(await gradients[key].data(), values) < 1e-4]).toEqual([key, true]);
      tf.dispose(gradients);
      if (name === 'lora-tied') return; // PEFT steps shared matrices twice
      const optimizer = new AdamW({learningRate: 1e-3, weightDecay: 0.01});
      model.compile({optimizer});
      for (const step of WHOLE.includes(name) ? losses : losses.slice(0, 3))
        expectRelative((await model.trainOnBatch(inputs)).loss, step, 2e-4);
      optimizer.dispose();
    });

    test('merges, restores, and saves what PEFT saves', async () => {
      const before = logitsOf(model, inputs);
      await model.loadAdapter(adapter);
      const without = model.withoutAdapter(() => logitsOf(model, inputs));
      expect(await without.data()).toEqual(await before.data());
      model.mergeLoRA();
      await expectLogits(expected, 'logits');
      await model.save(join(folder, 'merged'));
      model.unmergeLoRA();
      await expectLogits(expected, 'logits');
      await model.saveAdapter(join(folder, 'adapter'));
      expect(readdirSync(join(folder, 'adapter'))).toContain('adapter_model.safetensors');
      const saved = readAdapter(join(folder, 'adapter'));
      const peft = readAdapter(adapter);
      expect([...saved.keys()].sort()).toEqual([...peft.keys()].sort());
      for (const [key, {shape, values}] of peft)
        expect([key, saved.get(key)]).toEqual([key, {shape, values}]);
      tf.dispose([before, without]);

      model.deleteAdapter('default');
      const again = logitsOf(model, inputs);
      model.dispose();
      model = await Llama.fromPretrained(join(folder, 'merged'));
      await expectLogits(expected, 'logits');
      again.dispose();
    });

    test('applyLoRA makes the same weights, which save and load', async () => {
      const config = JSON.parse(readFileSync(join(adapter, 'adapter_config.json'), 'utf8'));
      model.applyLoRA({
        rank: config.r,
        targetModules: config.target_modules,
        useRsLoRA: config.use_rslora,
        useDoRA: config.use_dora,
        modulesToSave: config.modules_to_save ?? undefined,
        ensureWeightTying: config.ensure_weight_tying,
        trainableTokenIndices: config.trainable_token_indices ?? undefined,
      });
      const peft = readAdapter(adapter);
      await model.saveAdapter(folder);
      const saved = readAdapter(folder);
      const shapes = (of: typeof peft) => Object.fromEntries([...of].map(([key, {shape}]) => [key, shape]));
      expect(shapes(saved)).toEqual(shapes(peft));
      const ours = JSON.parse(readFileSync(join(folder, 'adapter_config.json'), 'utf8'));
      for (const key of ['modules_to_save', 'ensure_weight_tying', 'trainable_token_indices'])
        expect([key, ours[key] ?? null]).toEqual([key, config[key] ?? null]);
      model.deleteAdapter('default');
      await model.loadAdapter(folder);
    });
  });
});
