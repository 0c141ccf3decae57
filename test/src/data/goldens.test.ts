import {mkdtempSync, rmSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import type {Tokenizer} from '../../../models/tokenizer.ts';
import {setWarningHandler} from '../../../quant/warn.ts';
import type {DatasetArgs} from '../../../src/data/datasets/datasetArgs.ts';
import {mixDatasets} from '../../../src/data/datasets/mixDatasets.ts';
import {NumpyRandom} from '../../../src/data/datasets/numpyRandom.ts';
import {epochSeed, shuffleBuffer} from '../../../src/data/datasets/shuffleBuffer.ts';
import {splitValidation} from '../../../src/data/datasets/splitValidation.ts';
import {loadDataset, loadPrompts} from '../../../src/data/loadDataset.ts';
import {truncatedLengths} from '../../../src/data/preprocessing/truncatedLengths.ts';
import goldens from './fixtures/goldens.json';
import {llamaTokenizer, withTokens} from './llamaTokenizer.ts';

/*
 * Compares with LLaMA-Factory and the libraries below it; fixtures/makeGoldens.py made the numbers.
 */

interface Case {
  records: keyof typeof goldens.records;
  template: string;
  cutoff_len?: number;
  train_on_prompt?: boolean;
  mask_history?: boolean;
  default_system?: string;
  packing?: boolean | null;
}

let tokenizer: Tokenizer;
let folder: string;
let warnings: string[];
let before: (message: string) => void;

beforeAll(async () => {
  tokenizer = await llamaTokenizer();
  folder = mkdtempSync(join(tmpdir(), 'tfjs-lora-goldens-'));
  const info = Object.fromEntries(
    Object.entries(goldens.records).map(([name, {info}]) => [name, {...info, file_name: `${name}.json`}]),
  );
  writeFileSync(join(folder, 'dataset_info.json'), JSON.stringify(info));
  for (const [name, {records}] of Object.entries(goldens.records))
    writeFileSync(join(folder, `${name}.json`), JSON.stringify(records));
});

afterAll(() => rmSync(folder, {recursive: true}));

beforeEach(() => {
  warnings = [];
  before = setWarningHandler((message) => warnings.push(message));
});

afterEach(() => {
  setWarningHandler(before);
});

function argsOf(given: object): DatasetArgs {
  const {records, template, packing, ...rest} = given as Case;
  return {
    dataset: records,
    datasetDir: folder,
    template,
    // LLaMA-Factory adds the tokens that a template ends turns with; here they must be the tokenizer's own.
    tokenizer: template === 'chatml' ? withTokens(tokenizer, ['<|im_end|>', '<|im_start|>']) : tokenizer,
    cutoffLength: rest.cutoff_len,
    trainOnPrompt: rest.train_on_prompt,
    maskHistory: rest.mask_history,
    defaultSystem: rest.default_system,
    packing: packing ?? undefined,
    dateString: '26 Jul 2024',
  };
}

const title = ({case: given}: {case: object}) => JSON.stringify(given);

describe('token ids and label masks', () => {
  test.each(goldens.supervised.map((golden) => [title(golden), golden] as const))('%s', async (_, golden) => {
    const examples = await loadDataset({...argsOf(golden.case), streaming: false});
    // Records with nothing to learn, an empty answer in a template without an end, are left out.
    const learnable = golden.labels.map((labels) => labels.some((label, t) => t > 0 && label >= 0));
    expect(examples.map(({inputIds}) => inputIds)).toEqual(golden.inputIds.filter((_, i) => learnable[i]));
    expect(examples.map(({labels}) => labels)).toEqual(golden.labels.filter((_, i) => learnable[i]));
  });

  test("the tokenizer's own chat template", async () => {
    const examples = await loadDataset({...argsOf({records: 'alpaca'}), streaming: false});
    expect(examples.map(({inputIds}) => inputIds)).toEqual(goldens.ownTemplate);
    // Each answer, as the template trims it, and its end.
    const learnt = examples.map(({labels}) => tokenizer.decode(labels!.filter((label) => label >= 0)));
    const answers = goldens.records.alpaca.records.map(({history, output}) => [
      ...(history ?? []).map(([, answer]) => answer),
      output,
    ]);
    expect(learnt).toEqual(answers.map((all) => all.map((answer) => `${answer.trim()}<|eot_id|>`).join('')));
  });

  test('records that are not conversations are left out and named', async () => {
    await loadDataset(argsOf({records: 'sharegpt', template: 'llama3'}));
    expect(warnings).toEqual([
      'dataset sharegpt: skipped 1 of 3 records. The first: ' +
        `${join(folder, 'sharegpt.json')} record 2 (line 1): expected an assistant or a function call in turn 1, got 'human'.`,
    ]);
  });

  test('the same as a stream, in order', async () => {
    const args = argsOf({records: 'alpaca', template: 'llama3'});
    const stream = await loadDataset({...args, streaming: true});
    const list = await loadDataset({...args, streaming: false});
    const streamed: unknown[] = [];
    for await (const example of stream()) streamed.push(example);
    expect(streamed).toEqual(new NumpyRandom(42).permutation(list.length).map((i) => list[i]));
  });
});

test.each(goldens.prompts.map((golden) => [title(golden), golden] as const))(
  'prompts of %s',
  async (_, golden) => {
    const prompts = await loadPrompts(argsOf(golden.case));
    expect(prompts.map(({promptIds}) => promptIds)).toEqual(golden.inputIds);
    expect(prompts.map(({labelIds}) => labelIds)).toEqual(golden.labels);
  },
);

test.each(goldens.packed.map((golden) => [title(golden), golden] as const))(
  'packs of %s',
  async (_, golden) => {
    const examples = await loadDataset({...argsOf(golden.case), packing: true});
    expect(examples).toEqual(golden.examples);
  },
);

test.each(goldens.texts.map((golden) => [title(golden), golden] as const))(
  'plain text of %s',
  async (_, golden) => {
    const examples = await loadDataset({...argsOf(golden.case), stage: 'pt', streaming: false});
    const learnable = golden.inputIds.filter(({length}) => length > 1); // an empty text is left out
    expect(examples.map(({inputIds}) => inputIds)).toEqual(learnable);
  },
);

test('truncation of prompt and answer', () => {
  for (const [source, target, cutoff, keptSource, keptTarget] of goldens.truncatedLengths)
    expect(truncatedLengths(source, target, cutoff)).toEqual({source: keptSource, target: keptTarget});
});

describe('the same rows as in Python', () => {
  test.each(goldens.random)('NumPy, seed $seed', (golden) => {
    const random = new NumpyRandom(golden.seed);
    expect(golden.random.map(() => random.random())).toEqual(golden.random);
    expect(random.permutation(12)).toEqual(golden.permutation);
    expect([2, 10, 1000, 3_000_000_000].map((below) => random.integer(below))).toEqual(golden.integers);
    expect(`${random.integer63()}`).toBe(golden.integer63);
    expect(golden.choices.map(() => random.choice([0.2, 0.5, 0.3]))).toEqual(golden.choices);
  });

  test.each(goldens.splits)('split of $count by $valSize', ({count, valSize, seed, ...golden}) => {
    const rows = Array.from({length: count}, (_, i) => i);
    const {train, validation} = splitValidation(rows, valSize, seed);
    expect(validation).toEqual(golden.validation);
    expect(train.slice(0, 20)).toEqual(golden.train);
    expect([...train, ...validation].sort((a, b) => a - b)).toEqual(rows);
  });

  test.each(goldens.mixtures)('$strategy of $lengths by $probabilities', async (golden) => {
    const datasets = golden.lengths.map(
      (length, i) =>
        async function* () {
          for (let row = 0; row < length; row++) yield 100 * i + row;
        },
    );
    const {strategy, probabilities, seed} = golden;
    const order: number[] = [];
    const options = {
      strategy: strategy as 'interleave_under',
      probabilities: probabilities ?? undefined,
      seed,
    };
    for await (const row of mixDatasets(datasets, options)) order.push(row);
    expect(order).toEqual(golden.order);
  });

  test.each(goldens.streams)('stream of $count through $bufferSize, epoch $epoch', async (golden) => {
    async function* rows() {
      for (let row = 0; row < golden.count; row++) yield row;
    }
    const order: number[] = [];
    const seed = epochSeed(golden.seed, golden.epoch);
    for await (const row of shuffleBuffer(rows(), golden.bufferSize, seed)) order.push(row);
    expect(order).toEqual(golden.order);
  });
});
