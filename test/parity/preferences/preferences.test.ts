import {cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {loadRecipe} from '../../../src/tools/recipes/recipe.ts';
import {trainRecipe} from '../../../src/tools/recipes/trainRecipe.ts';
import type {LogEntry} from '../../../src/training/run/callbacks.ts';
import {describeFastBackends} from '../../describeEachBackend.ts';
import {expectRelative, readGoldens, relativeNorm} from '../golden.ts';

jest.setTimeout(600_000);

const FIXTURES = join(__dirname, 'fixtures');

/** A weight without a gradient in exact numbers, since scores are compared: Adam scales up what rounding leaves. */
const UNLEARNED = 'v_head.summary.bias';

/** What LLaMA-Factory logged with some keys. */
interface Run {
  keys: Record<string, unknown>;
  history: LogEntry[];
}

/** Numbers that LLaMA-Factory logs and that whole logits would be needed for, or that are about its machine. */
const OTHERS = /^(eval_)?logits\/|runtime|per_second|flos|^train_loss$|num_input_tokens/;

const RUNS: [name: string, steps: number][] = [
  ['sigmoid', 30],
  ['sigmoid-mixed', 12],
  ['hinge', 6],
  ['ipo', 6],
  ['kto_pair', 6],
  ['orpo', 6],
  ['simpo', 6],
  ['reference', 4],
  ['full', 2],
  ['asft', 4],
  ['reward', 30],
  ['kto', 12],
  ['kto-mixed', 8],
];

describeFastBackends('preference training equals LLaMA-Factory', (backend) => {
  // The short runs differ in their losses, whose ops are the same on every backend. Faster backends run all 30 steps.
  const long = RUNS.filter(([, steps]) => steps === 30);
  const runs = backend === 'wasm' ? RUNS.map(([name, steps]) => [name, Math.min(steps, 12)] as const) : long;
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'tfjs-lora-'));
  });
  afterEach(() => rmSync(folder, {recursive: true}));

  test.each(runs)('%s: every number of the log in %d steps', async (run, steps) => {
    const {keys, history} = JSON.parse(readFileSync(join(FIXTURES, `${run}.json`), 'utf8')) as Run;
    const recipe = join(folder, 'recipe.yaml');
    const model = run === 'reward' ? modelWithoutDropout(folder) : RECIPE.model_name_or_path;
    const paths = {model_name_or_path: model, output_dir: join(folder, 'run')};
    writeFileSync(recipe, JSON.stringify({...RECIPE, ...placed(keys), ...paths}));
    const controller = new AbortController();
    await trainRecipe(await loadRecipe(recipe), {
      backend,
      verbose: 0,
      signal: controller.signal,
      callbacks: [{onStepComplete: (step) => void (step === steps && steps < 30 && controller.abort())}],
    });
    const state = JSON.parse(readFileSync(join(folder, 'run', 'trainer_state.json'), 'utf8'));
    const ours = (state.log_history as LogEntry[]).filter((entry) => 'loss' in entry || 'eval_loss' in entry);
    const theirs = history.filter(
      (entry) => ('loss' in entry || 'eval_loss' in entry) && entry.step <= steps,
    );
    expect(ours.map(({step}) => step)).toEqual(theirs.map(({step}) => step));
    for (const [i, entry] of theirs.entries()) {
      // LLaMA-Factory adds up KTO's `kl` over batches, also over those of an evaluation, and names it alike there.
      const isEvaluation = 'eval_loss' in entry;
      const batches = isEvaluation ? 2 : 2 * Number(keys.logging_steps ?? 1);
      for (const [name, given] of Object.entries(entry)) {
        if (OTHERS.test(name)) continue;
        const [key, value] =
          name === 'kl' ? [isEvaluation ? 'eval_kl' : name, given / batches] : [name, given];
        expect([entry.step, key, typeof ours[i][key]]).toEqual([entry.step, key, 'number']);
        const tolerance = run === 'reward' ? 1e-5 : 1e-4 + 2e-5 / Math.abs(value || 1);
        expectRelative(ours[i][key], value, tolerance);
      }
    }
    const expectSame = (file: string, golden: string) => {
      const weights = readGoldens(join(folder, 'run', file));
      for (const [key, {values}] of readGoldens(join(FIXTURES, golden)))
        if (key !== UNLEARNED)
          expect([key, relativeNorm(weights.get(key)!.values, values) < 1e-3]).toEqual([key, true]);
    };
    if (steps < 30) return;
    expectSame('adapter_model.safetensors', `${run}.safetensors`);
    if (run !== 'reward') return;
    expectSame('value_head.safetensors', 'reward_value_head.safetensors');
    const own = (file: string) => readFileSync(join(folder, 'run', file), 'utf8');
    const golden = (file: string) => readFileSync(join(FIXTURES, file), 'utf8');
    const scores = (text: string) => text.split('\n').map((line) => Object.entries<number>(JSON.parse(line)));
    const expected = scores(golden('reward_predictions.jsonl'));
    for (const [i, pair] of scores(own('generated_predictions.jsonl')).entries())
      for (const [j, [side, score]] of pair.entries()) {
        expect(side).toBe(expected[i][j][0]);
        expect(Math.abs(score - expected[i][j][1])).toBeLessThan(0.011); // of two decimals
      }
    const results = JSON.parse(own('predict_results.json'));
    const {predict_accuracy, predict_loss} = JSON.parse(golden('reward_results.json'));
    expect(results.predict_accuracy).toBe(predict_accuracy);
    expectRelative(results.predict_loss, predict_loss, 1e-4);
  });

  test('leaves no tensor behind', () => {
    expect(tf.memory().numTensors).toBe(0);
  });
});

/** Copies the model, with no dropout before a value head. */
function modelWithoutDropout(folder: string): string {
  const model = join(folder, 'model');
  cpSync(RECIPE.model_name_or_path, model, {recursive: true});
  const config = JSON.parse(readFileSync(join(model, 'config.json'), 'utf8'));
  writeFileSync(join(model, 'config.json'), JSON.stringify({...config, summary_dropout_prob: 0}));
  return model;
}

/** The keys of make_preferences.py. */
const RECIPE = {
  stage: 'dpo',
  model_name_or_path: join(__dirname, '../../../examples/quickstart/model'),
  adapter_name_or_path: join(FIXTURES, 'adapter'),
  do_train: true,
  finetuning_type: 'lora',
  dataset: 'pairs',
  eval_dataset: 'turns',
  dataset_dir: FIXTURES,
  template: 'llama3',
  cutoff_len: 64,
  logging_steps: 1,
  save_strategy: 'no',
  eval_strategy: 'steps',
  eval_steps: 10,
  per_device_train_batch_size: 3,
  per_device_eval_batch_size: 4,
  gradient_accumulation_steps: 2,
  learning_rate: 1e-3,
  max_steps: 30,
  lr_scheduler_type: 'cosine',
  warmup_steps: 3,
  disable_shuffling: true,
};

/** Returns keys with the folders that a run's names stand for. A key of null removes that of the other runs. */
function placed(keys: Run['keys']): Record<string, unknown> {
  const folders: Record<string, string> = {
    model: RECIPE.model_name_or_path,
    reference: join(FIXTURES, 'reference'),
  };
  const values = Object.entries(keys).map(([key, value]) => [
    key,
    folders[value as string] ?? value ?? undefined,
  ]);
  return Object.fromEntries(values);
}
