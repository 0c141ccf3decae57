import {existsSync} from 'node:fs';
import {join} from 'node:path';
import type {LlamaForCausalLM} from '../../../../models/llama/llama.ts';
import type {PromptExample} from '../../../../src/data/preprocessing/promptExample.ts';
import {Llama, useBackend} from '../../../../src/index.ts';
import {
  type Candidate,
  compareModels,
  comparisonTable,
  parseCandidate,
} from '../../../../src/tools/evaluation/compareModels.ts';
import {predictDataset} from '../../../../src/training/prediction/predictDataset.ts';
import {expectNoLeak} from '../../../describeEachBackend.ts';
import {inFolder, stirAdapter} from '../../../models/tinyLlama.ts';

const FOLDER = join(__dirname, '../../../../examples/quickstart/model');
const open = ({quantization}: Candidate) =>
  Llama.fromPretrained(FOLDER, quantization && {quantization: {type: quantization}});
const examples = [{inputIds: [2042, 17, 300, 5, 911], labels: [-100, -100, 300, 5, 911]}];

beforeAll(async () => {
  await useBackend('wasm');
});

async function makePrompts(): Promise<PromptExample[]> {
  const model = await open({label: ''});
  const prompt = 'The Secretary may award grants to';
  const promptIds = model.tokenizer!.encode(prompt);
  model.dispose();
  return [{promptIds, prompt, label: 'States and schools'}];
}

test('gives base, LoRA and QLoRA the same results as separate runs', () =>
  inFolder(async (folder) => {
    const prompts = await makePrompts();
    const adapter = join(folder, 'sft');
    const model = await open({label: ''});
    const alone = await predictDataset(model, prompts, {maxNewTokens: 5});
    model.applyLoRA({rank: 2, targetModules: ['q_proj', 'v_proj']});
    stirAdapter(model as LlamaForCausalLM);
    await model.saveAdapter(adapter);
    const adapted = await predictDataset(model, prompts, {maxNewTokens: 5});
    const {perplexity} = await model.evaluateDataset(examples);
    model.dispose();

    const candidates = ['base', adapter, `nf4:${adapter}`].map((text) => parseCandidate(text));
    const found = await compareModels(candidates, {
      open,
      prompts,
      examples,
      options: {maxNewTokens: 5},
      outputDirOf: (_, index) => join(folder, String(index)),
    });
    expect(found.map(({label}) => label)).toEqual(['Before fine-tuning', 'LoRA: sft', 'QLoRA (nf4): sft']);
    expect(found[0].scores).toEqual(alone.scores);
    expect(found[1].scores).toEqual(adapted.scores);
    expect(found[1].perplexity).toBeCloseTo(perplexity, 6);
    // 4 blocks, rank 2, q_proj 128 → 128 and v_proj 128 → 64.
    expect(found.map(({trainableParameters}) => trainableParameters)).toEqual([0, 3584, 3584]);
    expect(found.map(({rank}) => rank)).toEqual([undefined, 2, 2]);
    expect(found[2].peakBytes).toBeLessThan(found[0].peakBytes);
    for (const index of [0, 1, 2])
      expect(existsSync(join(folder, `${index}/predict_results.json`))).toBe(true);

    const table = comparisonTable(found);
    expect(table).toMatch(/^\| Before fine-tuning \|.*\| +- \| +- \| +\d\.\d MiB \|$/m);
    expect(table).toMatch(/^\| QLoRA \(nf4\): sft +\|.*\| +2 \| +3,584 \| +\d+\.\d KiB \|$/m);
    const widths = table
      .split('\n')
      .filter((line) => line.startsWith('|'))
      .map((line) => line.length);
    expect(new Set(widths).size).toBe(2); // two tables with aligned columns
    await expectNoLeak(async () => {
      await compareModels(candidates.slice(1, 2), {open, prompts, options: {maxNewTokens: 2}});
    });
  }));

test.each([
  ['base', {label: 'Before fine-tuning'}],
  ['int8:base', {label: 'Before fine-tuning (int8)', quantization: 'int8'}],
  ['saves/x/sft/', {label: 'LoRA: sft', adapter: 'saves/x/sft/'}],
  ['nf4:saves/q', {label: 'QLoRA (nf4): q', adapter: 'saves/q', quantization: 'nf4'}],
  ['rank 16=fp4:a', {label: 'rank 16', adapter: 'a', quantization: 'fp4'}],
])('reads %s', (text, candidate) => {
  expect(parseCandidate(text)).toEqual(candidate);
});

test('a recipe that quantizes does so unless a candidate overrides it', () => {
  expect(parseCandidate('saves/q', 'nf4')).toMatchObject({label: 'QLoRA (nf4): q', quantization: 'nf4'});
  expect(parseCandidate('int8:saves/q', 'nf4')).toMatchObject({quantization: 'int8'});
  expect(parseCandidate('none:base', 'nf4')).toEqual({label: 'Before fine-tuning'});
});

test.each(['', 'nf4:', '=saves/x', 'label=', 'nf4', 'label=int8'])('refuses "%s"', (text) => {
  expect(() => parseCandidate(text)).toThrow('expected base or the folder of an adapter');
});

test('a folder without an adapter is reported before any model is loaded', async () => {
  const neverOpened = jest.fn(open);
  const candidates = ['base', 'nowhere'].map((text) => parseCandidate(text));
  const comparison = compareModels(candidates, {open: neverOpened, prompts: await makePrompts()});
  await expect(comparison).rejects.toMatchObject({code: 'FILE_NOT_FOUND'});
  expect(neverOpened).not.toHaveBeenCalled();
});

test('refuses an empty list of candidates', async () => {
  await expect(compareModels([], {open, prompts: []})).rejects.toMatchObject({code: 'INVALID_ARGUMENT'});
});
