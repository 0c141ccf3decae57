import {existsSync, mkdtempSync, readdirSync, readFileSync, rmSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join, resolve} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import type {CausalLM} from '../../models/causalLM.ts';
import {AdamW, AutoModelForCausalLM} from '../../src/index.ts';
import {describeFastBackends} from '../describeEachBackend.ts';
import {
  expectClose,
  expectRelative,
  expectSameTokens,
  type GoldenGreedy,
  type GoldenInputs,
  goldenNamed,
  logitsOf,
  readGoldens,
} from './golden.ts';

jest.setTimeout(300_000); // a software driver of webgpu compiles for minutes

/** The folder that make_families.py writes to. */
const FAMILIES = resolve('test/parity/families/fixtures');

interface GoldenFamily {
  inputs: GoldenInputs;
  greedy: GoldenGreedy;
  adapterGreedy: GoldenGreedy;
  losses: number[];
}

const families = readdirSync(FAMILIES).filter((name) => existsSync(join(FAMILIES, name, 'model')));

describeFastBackends('a family equals transformers', (backend) => {
  test.each(families)('%s: logits, greedy tokens, nf4, adapter, training, files', async (family) => {
    const at = (name: string) => join(FAMILIES, family, name);
    const golden = JSON.parse(readFileSync(at('manifest.json'), 'utf8')) as GoldenFamily;
    const expected = readGoldens(at('expected.safetensors'));
    const before = tf.memory().numTensors;
    const expectLogits = async (model: CausalLM, name: string, tolerance = 1e-4) => {
      const logits = logitsOf(model, golden.inputs);
      await expectClose(logits, goldenNamed(expected, name), tolerance, golden.inputs.attentionMask?.flat());
      logits.dispose();
    };

    const model = await AutoModelForCausalLM.fromPretrained(at('model'));
    expect(model.modelType).toBe(family);
    await expectLogits(model, 'logits');
    await expectSameTokens(model, golden.greedy);
    await expectSameFolder(model, at('model'));

    await model.loadAdapter(at('adapter'), {trainable: true});
    await expectLogits(model, 'adapterLogits');
    await expectSameTokens(model, golden.adapterGreedy);
    const optimizer = new AdamW({learningRate: 3e-3, weightDecay: 0.01});
    model.compile({optimizer});
    // A step on a software driver takes as long as all 30 elsewhere.
    for (const loss of backend === 'webgpu' ? golden.losses.slice(0, 1) : golden.losses) {
      expectRelative((await model.trainOnBatch(golden.inputs)).loss, loss, 1e-3);
    }
    optimizer.dispose();
    model.dispose();

    const small = await AutoModelForCausalLM.fromPretrained(at('model'), {quantization: {type: 'nf4'}});
    await expectLogits(small, 'nf4Logits');
    small.applyLoRA({rank: 4});
    const adapted = readGoldens(join(at('adapter'), 'adapter_model.safetensors'));
    expect([...small.trainableParameters().keys()].sort()).toEqual([...adapted.keys()].sort());
    small.dispose();
    expect(tf.memory().numTensors).toBe(before);
  });
});

/** Expects that the model saves the tensors and settings that it was loaded from. */
async function expectSameFolder(model: CausalLM, source: string): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'tfjs-lora-'));
  try {
    await model.save(folder);
    const [saved, original] = [folder, source].map((at) => readGoldens(join(at, 'model.safetensors')));
    expect(new Map([...saved].sort())).toEqual(new Map([...original].sort()));
    const [config, given] = [folder, source].map((at) =>
      JSON.parse(readFileSync(join(at, 'config.json'), 'utf8')),
    );
    expect(config).toEqual(given);
    // transformers refuses whole numbers here.
    expect(readFileSync(join(folder, 'config.json'), 'utf8')).not.toMatch(/_softcapping": \d+,?$/m);
  } finally {
    rmSync(folder, {recursive: true});
  }
}
