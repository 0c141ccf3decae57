import {readdirSync, statSync} from 'node:fs';
import {join} from 'node:path';
import {type AlpacaRecord, BillGenerator, billRecords} from '../../examples/quickstart/billGenerator.ts';
import {pretrainingBatches} from '../../examples/quickstart/pretrain.ts';
import {readSettings} from '../../examples/quickstart/quickstartSettings.ts';
import {evaluateSummaries, exampleOf, promptOf} from '../../examples/quickstart/summaryEvaluation.ts';
import {AdamW, Llama, Tokenizer, useBackend} from '../../src/index.ts';

const folder = join(__dirname, '../../examples/quickstart/model');
const record: AlpacaRecord = billRecords('heldOut', 1)[0];

describe('settings', () => {
  test('come from the command line', () => {
    expect(readSettings(['--rank', '16', '--learning-rate', '5e-3', '--qlora'])).toMatchObject({
      rank: 16,
      learningRate: 0.005,
      epochs: 2,
      qlora: true,
    });
  });

  test.each([
    [['--rankk', '4'], "got unknown option '--rankk'. Did you mean --rank?"],
    [['--lr', '1'], "got unknown option '--lr'"],
    [['4'], "got unexpected argument '4'"],
    [['--rank'], 'missing'],
    [['--rank', 'abc'], 'quickstart --rank: expected a whole number of at least 1, got abc'],
    [['--epochs', '0.5'], 'quickstart --epochs: expected a whole number of at least 1, got 0.5'],
    [['--learning-rate', '-1'], 'quickstart'],
  ])('%j is refused', (args, message) => {
    expect(() => readSettings(args)).toThrow(
      expect.objectContaining({code: 'INVALID_ARGUMENT', message: expect.stringContaining(message)}),
    );
  });
});

test('the committed model is small', () => {
  const bytes = readdirSync(folder).reduce((sum, name) => sum + statSync(join(folder, name)).size, 0);
  expect(bytes).toBeLessThan(8 * 2 ** 20);
});

test('a record trains its answer and the end of turn, nothing else', async () => {
  const tokenizer = await Tokenizer.fromFolder(folder);
  const {inputIds, labels = []} = exampleOf(tokenizer, record);
  expect(tokenizer.decode(inputIds)).toBe(
    `<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n${record.instruction}\n${record.input}<|eot_id|>` +
      `<|start_header_id|>assistant<|end_header_id|>\n\n${record.output}<|eot_id|>`,
  );
  expect(tokenizer.decode(labels.filter((label) => label !== -100))).toBe(`${record.output}<|eot_id|>`);
  expect(labels.slice(0, promptOf(tokenizer, record).length).every((label) => label === -100)).toBe(true);
});

test('pre-training batches count continuations, and begin with short pages', async () => {
  const tokenizer = await Tokenizer.fromFolder(folder);
  const plan = {tokens: 12_000, batchTokens: 512, journalShare: 0.3, journalPages: 500, seed: 4};
  const batches = pretrainingBatches(tokenizer, plan) as {inputIds: number[][]; labels: number[][]}[];
  expect(batches).toEqual(pretrainingBatches(tokenizer, plan));
  const real = batches
    .flatMap(({inputIds}) => inputIds.flat())
    .filter((id) => id !== tokenizer.padTokenId).length;
  expect(real).toBeGreaterThanOrEqual(12_000);
  const [{inputIds, labels}] = batches;
  expect(inputIds[0].length).toBeLessThanOrEqual(28);
  expect(tokenizer.decode(labels[0].filter((label) => label !== -100))).toMatch(
    /^SECOND READING\. .*<\|end_of_text\|>$/,
  );
  for (const batch of batches) {
    batch.labels.forEach((row, index) => {
      for (const [t, label] of row.entries())
        if (label !== -100) expect(label).toBe(batch.inputIds[index][t]);
    });
  }
});

describe('the base model', () => {
  let model: Llama;
  const bills = new BillGenerator('heldOut', 7).take(12);

  beforeAll(async () => {
    await useBackend('wasm');
    model = await Llama.fromPretrained(folder);
  });
  afterAll(() => model.dispose());

  test('finds facts in bills it has never seen', async () => {
    const tokenizer = model.tokenizer as Tokenizer;
    const prompts = bills.map(({text}) =>
      promptOf(tokenizer, {instruction: 'What is the short title?', input: text, output: ''}),
    );
    const answers = await model.generate(prompts, {maxNewTokens: 24, doSample: false});
    const correct = answers.filter((answer, index) => answer === `${bills[index].title}.`).length;
    expect(correct).toBeGreaterThanOrEqual(9);
  });

  test('cannot summarise, and learns to with LoRA', async () => {
    const tokenizer = model.tokenizer as Tokenizer;
    const records = billRecords('heldOut', 12, 2);
    const before = await evaluateSummaries(model, records);
    expect(before.loss).toBeGreaterThan(2);
    expect(before.rougeL).toBeLessThan(40);
    expect(before.exact).toBe(0);

    model.applyLoRA({rank: 8, targetModules: 'all-linear', seed: 0});
    model.gradientCheckpointing = false;
    model.compile({
      optimizer: new AdamW({learningRate: 1e-2, weightDecay: 0}),
      schedule: {name: 'cosine', warmupSteps: 5},
      maxGradNorm: 1,
    });
    await model.fitDataset(
      billRecords('train', 160).map((each) => exampleOf(tokenizer, each)),
      {batchSize: 4, verbose: 0},
    );
    const after = await evaluateSummaries(model, records);
    expect(after.loss).toBeLessThan(before.loss / 5);
    expect(after.rougeL).toBeGreaterThan(before.rougeL + 20);
    const resting = await model.withoutAdapter(() => evaluateSummaries(model, records.slice(0, 4)));
    expect(resting.summaries).toEqual(before.summaries.slice(0, 4));
  });
});
