import {readdirSync, readFileSync} from 'node:fs';
import {join} from 'node:path';
import {type FitArgs, Llama, type RecordData, useBackend} from '../../../src/index.ts';
import {ranks, setRanks} from '../../../src/training/cluster/ranks.ts';
import {flatScores, SCORE_NAMES} from '../../../src/training/prediction/predictionScores.ts';
import {expectNoLeak} from '../../describeEachBackend.ts';
import {inFolder, tinyConfig} from '../../models/tinyLlama.ts';

const FOLDER = join(__dirname, '../../../examples/quickstart/model');
const RECORDS = [
  {prompt: 'Who founded Adaville?', completion: 'Ada did.'},
  {prompt: 'When?', completion: 'In 1843.'},
  {prompt: 'Where?', completion: 'On a hill.'},
];
const GENERATION = {maxNewTokens: 3, doSample: false};
const SETTINGS = {batchSize: 3, verbose: 0, validationData: RECORDS, generation: GENERATION};

let model: Llama;
const trained = (args: FitArgs, data: RecordData = RECORDS) => model.fitDataset(data, {...SETTINGS, ...args});
const scripted = (...values: number[]) => ({own: () => values.shift() ?? Number.NaN});
const linesOf = (folder: string, name: string) =>
  readFileSync(join(folder, name), 'utf8')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));
const stateOf = (folder: string) => JSON.parse(readFileSync(join(folder, 'trainer_state.json'), 'utf8'));
const weightOf = async () => [...(await [...model.trainableParameters().values()][1].data())];

beforeAll(async () => {
  await useBackend('wasm');
  const {tokenizer} = await Llama.fromPretrained(FOLDER, {allocate: false});
  model = Llama.fromConfig({...tinyConfig, vocabSize: 2048, maxPositionEmbeddings: 64}, {seed: 1});
  model.tokenizer = tokenizer;
  model.applyLoRA({rank: 2});
});
beforeEach(() => model.compile());
afterAll(() => model.dispose());

test('each evaluation has the scores of predictDataset, in every log', () =>
  inFolder(async (outputDir) => {
    const seen: number[] = [];
    const metrics = {
      words: (texts: readonly string[], labels: readonly string[]) => texts.length + labels.length,
    };
    const {evaluations, history} = await trained({
      epochs: 2,
      metrics,
      outputDir,
      reportTo: ['csv', 'tensorboard'],
      plotLoss: true,
      callbacks: {onPredict: ({done, total}, step) => void seen.push(done, total, step)},
    });
    const {scores, predictions} = await model.predictDataset(RECORDS, GENERATION);
    expect(predictions).toHaveLength(3);
    const expected = {...flatScores(scores), words: 6};
    expect(Object.keys(expected)).toEqual([...SCORE_NAMES, 'words']);
    expect(evaluations.at(-1)?.metrics).toEqual(expected);
    expect(history['val_rouge-l']).toEqual(evaluations.map(({metrics}) => metrics?.['rouge-l']));
    expect(seen).toEqual([0, 3, 1, 3, 3, 1, 0, 3, 2, 3, 3, 2]);

    const logged = Object.fromEntries(
      Object.entries(expected).map(([name, value]) => [`eval_${name}`, value]),
    );
    const ofEvaluations = (lines: {eval_loss?: number}[]) => lines.filter(({eval_loss}) => eval_loss);
    expect(ofEvaluations(linesOf(outputDir, 'trainer_log.jsonl')).at(-1)).toMatchObject(logged);
    expect(ofEvaluations(stateOf(outputDir).log_history).at(-1)).toMatchObject(logged);
    expect(JSON.parse(readFileSync(join(outputDir, 'eval_results.json'), 'utf8'))).toMatchObject(logged);
    const [header] = readFileSync(join(outputDir, 'trainer_log.csv'), 'utf8').split('\n');
    expect(header.split(',')).toEqual(expect.arrayContaining(Object.keys(logged)));
    const [events] = readdirSync(join(outputDir, 'runs'));
    expect(readFileSync(join(outputDir, 'runs', events), 'latin1')).toContain('eval/rouge-l');
    const plots = ['training_eval_bleu-4.svg', 'training_eval_rouge-l.png', 'training_eval_words.svg'];
    expect(readdirSync(outputDir)).toEqual(expect.arrayContaining(plots));
    expect(readFileSync(join(outputDir, plots[0]), 'utf8')).toContain('bleu-4');
  }));

test('answers as many prompts as samples says, leaves no tensor, and shows its progress', async () => {
  const counts: number[] = [];
  let shown = '';
  const run = () =>
    trained({
      metrics: {count: ({length}) => counts.push(length)},
      generation: {...GENERATION, samples: 2},
      verbose: 1,
      progressStream: {write: (text) => (shown += text)},
    });
  await expectNoLeak(async () => void (await run()));
  expect(counts).toEqual([2, 2]);
  expect(shown).toMatch(
    /step 1 answers 0\/2\n(?:.|\n)*validation loss .* perplexity .* rouge-l .* count 1\n/,
  );
});

test('the best model is the one with the best score, saved when it is, and ends the run if no better comes', () =>
  inFolder(async (outputDir) => {
    const weights: number[][] = [];
    const {evaluations} = await trained({
      epochs: 9,
      metrics: scripted(1, 5, 3, 5, 5),
      outputDir,
      saveStrategy: 'best',
      loadBestModelAtEnd: true,
      metricForBestModel: 'eval_own',
      earlyStoppingPatience: 2,
      callbacks: {onEvaluate: async () => void weights.push(await weightOf())},
    });
    expect(evaluations.map(({step, metrics}) => [step, metrics?.own])).toEqual([
      [1, 1],
      [2, 5],
      [3, 3],
      [4, 5],
      [4, 5], // of the best weights, for the results
    ]);
    expect(readdirSync(outputDir).filter((name) => name.startsWith('checkpoint'))).toEqual([
      'checkpoint-1',
      'checkpoint-2',
    ]);
    expect(stateOf(outputDir)).toMatchObject({best_global_step: 2, best_metric: 5});
    expect(await weightOf()).toEqual(weights[1]);
  }));

test('a smaller score is better if the run says so, and NaN never is', () =>
  inFolder(async (outputDir) => {
    await trained({
      epochs: 4,
      metrics: scripted(Number.NaN, 2, Number.NaN, 1),
      outputDir,
      saveStrategy: 'epoch',
      metricForBestModel: 'own',
      greaterIsBetter: false,
    });
    expect(stateOf(outputDir)).toMatchObject({best_global_step: 4, best_metric: 1});
  }));

test('a stop while answers are generated ends the run after the token; resumed, it evaluates', () =>
  inFolder(async (outputDir) => {
    const controller = new AbortController();
    const args = {outputDir, saveStrategy: 'epoch', predictWithGenerate: true} as const;
    const {isInterrupted, evaluations} = await trained({
      ...args,
      signal: controller.signal,
      callbacks: {onPredict: () => controller.abort()},
    });
    expect([isInterrupted, evaluations]).toEqual([true, []]);
    const rest = await trained({...args, resumeFromCheckpoint: true});
    expect(rest.evaluations).toMatchObject([{step: 1, metrics: {'rouge-l': expect.any(Number)}}]);
  }));

test('with several ranks, own metrics are those of the first one', async () => {
  const alone = ranks();
  const own = () => {
    throw new Error('called on another rank');
  };
  setRanks({
    ...alone,
    rank: 1,
    isFirst: false,
    gather: async (text) => (text === '[]' ? ['[["own",7]]', text] : [text]),
  });
  try {
    const {evaluations} = await trained({metrics: {own}, maxSteps: 1});
    expect(evaluations[0].metrics).toMatchObject({own: 7, 'rouge-l': expect.any(Number)});
  } finally {
    setRanks(alone);
  }
});

test.each<[string, FitArgs, RegExp]>([
  [
    'without validation data',
    {validationData: undefined},
    /predictWithGenerate: expected validationData with it/,
  ],
  ['an unknown setting', {generation: {nonsense: 1} as object}, /generation nonsense: expected/],
  [
    'settings without scores',
    {predictWithGenerate: false},
    /generation: expected predictWithGenerate or metrics/,
  ],
  ['no samples', {generation: {samples: 0}}, /generation\.samples: expected a positive integer, got 0/],
  ['a metric that is none', {metrics: {own: 1 as never}}, /metrics own: expected a function .*, got 1/],
  [
    'a name that is taken',
    {metrics: {'rouge-l': () => 1}},
    /metrics: expected names .* taken, got "rouge-l"/,
  ],
  [
    'an unknown metric',
    {metricForBestModel: 'rouge-9'},
    /metricForBestModel: expected loss, .*sacrebleu, got "rouge-9"/,
  ],
  [
    'a wrong result',
    {metrics: {own: () => 'much' as never}},
    /metrics own: expected it to return a number, got "much"/,
  ],
  [
    'packed rows',
    {validationData: [{inputIds: [1, 2, 3], attentionMask: [1, 1, 2]}]},
    /got packed sequences/,
  ],
])('%s is refused', async (_what, args, message) => {
  await expect(trained({predictWithGenerate: true, ...args})).rejects.toThrow(message);
});
