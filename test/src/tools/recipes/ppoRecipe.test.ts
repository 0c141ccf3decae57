import {existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync} from 'node:fs';
import {createServer, type Server} from 'node:http';
import type {AddressInfo} from 'node:net';
import {tmpdir} from 'node:os';
import {join, resolve} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import type {ScoredAnswers} from '../../../../src/index.ts';
import {loadRecipe} from '../../../../src/tools/recipes/recipe.ts';
import {trainRecipe} from '../../../../src/tools/recipes/trainRecipe.ts';

jest.setTimeout(120_000);

const MODEL = resolve('examples/quickstart/model');
const ADAPTER = resolve('test/parity/preferences/fixtures/adapter'); // with a value head

/** The keys of LLaMA-Factory's example for this stage, with smaller numbers. */
const RECIPE = {
  model_name_or_path: MODEL,
  stage: 'ppo',
  do_train: true,
  finetuning_type: 'lora',
  lora_rank: 2,
  lora_target: 'all',
  dataset: 'bills',
  template: 'llama3',
  cutoff_len: 64,
  max_samples: 1000,
  overwrite_cache: true,
  logging_steps: 1,
  save_steps: 500,
  plot_loss: true,
  overwrite_output_dir: true,
  report_to: 'none',
  per_device_train_batch_size: 2,
  gradient_accumulation_steps: 1,
  ppo_epochs: 1,
  learning_rate: 1e-3,
  num_train_epochs: 1,
  lr_scheduler_type: 'cosine',
  warmup_ratio: 0.1,
  max_new_tokens: 4,
  top_k: 0,
  top_p: 0.9,
};

let folder: string;
let tensorsBefore: number;
beforeEach(() => {
  tensorsBefore = tf.memory().numTensors;
  folder = mkdtempSync(join(tmpdir(), 'tfjs-lora-'));
  const bills = ['water', 'roads', 'farms'].map((topic) => ({
    instruction: 'Summarize the bill.',
    input: `A bill about ${topic}.`,
    output: `It is about ${topic}.`,
  }));
  writeFileSync(join(folder, 'bills.json'), JSON.stringify(bills));
  writeFileSync(join(folder, 'dataset_info.json'), JSON.stringify({bills: {file_name: 'bills.json'}}));
});
afterEach(() => {
  rmSync(folder, {recursive: true});
  expect(tf.memory().numTensors).toBe(tensorsBefore);
});

let runs = 0;
/** Trains a recipe and returns the scores of its answers and the lines of its log. */
async function train(keys: Record<string, unknown>) {
  const path = join(folder, 'recipe.yaml');
  const outputDir = join(folder, `run-${runs++}`);
  writeFileSync(path, JSON.stringify({...RECIPE, dataset_dir: folder, output_dir: outputDir, ...keys}));
  const answers: ScoredAnswers[] = [];
  const callbacks = [{onAnswers: (given: ScoredAnswers[]) => void answers.push(...given)}];
  await trainRecipe(await loadRecipe(path), {backend: 'wasm', verbose: 0, callbacks});
  const {log_history} = JSON.parse(readFileSync(join(outputDir, 'trainer_state.json'), 'utf8'));
  return {
    outputDir,
    scores: answers.flatMap(({rewards}) => rewards),
    log: log_history as Record<string, number>[],
  };
}

test('stage ppo scores answers with an adapter and with a model of its own, which are the same', async () => {
  const {scores, log, outputDir} = await train({reward_model: ADAPTER});
  expect(scores).toHaveLength(3);
  expect(log.filter((entry) => 'reward' in entry).map(({step}) => step)).toEqual([1, 2]);
  expect(log[0].reward).toBeCloseTo((scores[0] + scores[1]) / 2, 5);
  for (const file of ['adapter_model.safetensors', 'value_head.safetensors', 'training_reward.png'])
    expect([file, existsSync(join(outputDir, file))]).toEqual([file, true]);
  const full = {reward_model: MODEL, reward_model_type: 'full', reward_model_adapters: ADAPTER};
  const other = await train({...full, max_steps: 1});
  expect(other.scores).toEqual(scores.slice(0, 2).map((score) => expect.closeTo(score, 4)));
});

test('a server scores whole texts, and a step may hold several windows', async () => {
  const asked: string[][] = [];
  const server: Server = createServer(async (request, response) => {
    const parts: Buffer[] = [];
    for await (const part of request) parts.push(part as Buffer);
    const {model, messages} = JSON.parse(Buffer.concat(parts).toString());
    expect(model).toBe('model');
    asked.push(messages);
    response.end(JSON.stringify({scores: messages.map((text: string) => text.length)}));
  });
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  const address = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
  try {
    const keys = {reward_model: address, reward_model_type: 'api', ppo_buffer_size: 2, ppo_epochs: 2};
    const {scores, log} = await train(keys);
    expect(asked.map(({length}) => length)).toEqual([2, 1]);
    expect(asked[0][0]).toMatch(
      /<\|start_header_id\|>user<\|end_header_id\|>\n\nSummarize the bill\.\nA bill about/,
    );
    expect(scores).toEqual(asked.flat().map((text) => text.length));
    expect(log.filter((entry) => 'reward' in entry)).toHaveLength(1);
  } finally {
    server.close();
  }
  await expect(train({reward_model: address, reward_model_type: 'api'})).rejects.toThrow(
    `reward_model ${address}: expected {scores} with 2 numbers, got`,
  );
});
