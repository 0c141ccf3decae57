import {existsSync, readFileSync} from 'node:fs';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {generate} from '../../../../models/generation/generate.ts';
import type {Tokenizer} from '../../../../models/tokenizer.ts';
import type {PromptExample} from '../../../../src/data/preprocessing/promptExample.ts';
import {Llama, useBackend} from '../../../../src/index.ts';
import {llamaFactoryScores} from '../../../../src/training/metrics/index.ts';
import {predictDataset} from '../../../../src/training/prediction/predictDataset.ts';
import {formatScores} from '../../../../src/training/prediction/predictionScores.ts';
import {expectNoLeak} from '../../../describeEachBackend.ts';
import {errorOf, inFolder} from '../../../models/tinyLlama.ts';

const questions = [
  ['Which agency runs the program?', 'The Department of Energy.'],
  ['Summarise: SEC. 1. SHORT TITLE. This Act may be cited as the "Clean Water Act".', 'Clean Water Act'],
  ['What?', '我们 do not know "it".\nAt all.'],
  ['Who receives the grants of the Secretary of Agriculture, and until when?', 'States, until 2029.'],
];

const FOLDER = join(__dirname, '../../../../examples/quickstart/model');

beforeAll(async () => {
  await useBackend('wasm');
});

describe('predictDataset', () => {
  let model: Llama;
  let prompts: PromptExample[];
  beforeAll(async () => {
    model = await Llama.fromPretrained(FOLDER);
    const tokenizer = model.tokenizer as Tokenizer;
    prompts = questions.map(([content, label]) => {
      const prompt = tokenizer.applyChatTemplate([{role: 'user', content}], {addGenerationPrompt: true});
      return {promptIds: tokenizer.encode(prompt, {addSpecialTokens: false}), prompt, label};
    });
  });
  afterAll(() => {
    model.dispose();
  });

  test('answers each prompt as generate alone does, in the order of the prompts, for any batch size', async () => {
    const alone: string[] = [];
    for (const {promptIds} of prompts) alone.push(await generate(model, promptIds, {maxNewTokens: 6}));
    for (const batchSize of [1, 3, 8]) {
      const {predictions} = await predictDataset(model, prompts, {maxNewTokens: 6, batchSize});
      expect(predictions).toEqual(
        prompts.map(({prompt, label}, index) => ({prompt, predict: alone[index], label})),
      );
    }
  });

  test("writes LLaMA-Factory's files, and keeps the results of other tasks", () =>
    inFolder(async (folder) => {
      const outputDir = join(folder, 'deeper');
      const {predictions, metrics, scores} = await predictDataset(model, prompts, {
        maxNewTokens: 4,
        outputDir,
      });
      const lines = readFileSync(join(outputDir, 'generated_predictions.jsonl'), 'utf8').split('\n');
      expect(lines.pop()).toBe('');
      expect(lines.map((line) => JSON.parse(line))).toEqual(predictions);
      expect(lines[2]).toMatch(
        /^\{"prompt": ".*", "predict": ".*", "label": "我们 do not know \\"it\\"\.\\nAt all\."\}$/,
      );
      const results = readFileSync(join(outputDir, 'predict_results.json'), 'utf8');
      expect(JSON.parse(results)).toEqual(metrics);
      expect(Object.keys(JSON.parse(results))).toEqual(Object.keys(metrics).sort());
      expect(JSON.parse(readFileSync(join(outputDir, 'all_results.json'), 'utf8'))).toEqual(metrics);
      const [texts, labels] = [predictions.map(({predict}) => predict), prompts.map(({label}) => label)];
      expect(scores.llamaFactory).toEqual(await llamaFactoryScores(texts, labels));
      expect(metrics['predict_rouge-1']).toBe(scores.llamaFactory['rouge-1']);
      expect(metrics['predict_rouge_score_rougeLsum']).toBe(scores.standard.rougeLsum);
    }));

  test('reports progress and peak memory', async () => {
    const seen: [number, number][] = [];
    const weights = tf.memory().numBytes;
    const {newTokens, peakBytes} = await predictDataset(model, prompts, {
      maxNewTokens: 3,
      batchSize: 3,
      eosTokenId: [],
      onProgress: ({done, newTokens}) => seen.push([done, newTokens]),
    });
    expect(seen).toEqual([
      [0, 0],
      [3, 9],
      [4, 12],
    ]);
    expect(newTokens).toBe(12);
    // Keys and values of the longest batch: 4 layers × 2 × 3 rows × 1 head × 64 × 4 bytes per token.
    const longest = Math.max(...prompts.map(({promptIds}) => promptIds.length));
    expect(peakBytes - weights).toBeGreaterThan(4 * 2 * 3 * 64 * 4 * longest);
  });

  test('a seed makes sampled answers repeatable; special tokens can be kept', async () => {
    const sampled = () =>
      predictDataset(model, prompts, {
        maxNewTokens: 5,
        doSample: true,
        temperature: 3,
        seed: 7,
        batchSize: 2,
      });
    const [first, again] = [await sampled(), await sampled()];
    expect(again.predictions).toEqual(first.predictions);
    const ended = await predictDataset(model, prompts.slice(0, 1), {
      maxNewTokens: 200,
      skipSpecialTokens: false,
    });
    expect(ended.predictions[0].predict.endsWith('<|eot_id|>')).toBe(true);
  });

  test('keeps no tensors', () =>
    expectNoLeak(async () => void (await predictDataset(model, prompts, {maxNewTokens: 3}))));
});

describe('predictDataset refuses, before anything is generated or written', () => {
  let model: Llama;
  const good: PromptExample = {promptIds: [2042, 5], prompt: 'x', label: 'y'};
  beforeAll(async () => {
    model = await Llama.fromPretrained(FOLDER);
  });
  afterAll(() => {
    model.dispose();
  });
  const tooLong = {...good, promptIds: new Array<number>(512).fill(5)};
  test.each([
    ['no prompts', [], {}, 'INVALID_ARGUMENT', 'expected at least one prompt'],
    [
      'an empty prompt',
      [good, {...good, promptIds: []}],
      {},
      'INVALID_ARGUMENT',
      'prompt 1: expected 1 to 511',
    ],
    ['a prompt without room', [good, tooLong], {}, 'INVALID_ARGUMENT', 'got 512. Shorten it'],
    ['ids of another model', [{...good, promptIds: [2048]}], {}, 'VOCABULARY_MISMATCH', 'got 2048'],
    ['half a batch', [good], {batchSize: 0.5}, 'INVALID_ARGUMENT', 'batchSize'],
    ['an unknown option', [good], {maxTokens: 3}, 'INVALID_ARGUMENT', 'maxNewTokens'],
  ])('%s', (_, prompts, options, code, message) =>
    inFolder(async (folder) => {
      const outputDir = join(folder, 'out');
      const error = await errorOf(() => predictDataset(model, prompts, {...options, outputDir}));
      expect(error.code).toBe(code);
      expect(error.message).toContain(message);
      expect(existsSync(outputDir)).toBe(false);
    }),
  );

  test('a model without a tokenizer', async () => {
    const bare = Llama.fromConfig({...model.config, vocabSize: 2048});
    expect((await errorOf(() => predictDataset(bare, [good]))).code).toBe('UNSUPPORTED');
    bare.dispose();
  });
});

test('both families of scores are shown side by side with their names', () => {
  const llamaFactory = {'bleu-4': 1, 'rouge-1': 2, 'rouge-2': 3, 'rouge-l': 4};
  const text = formatScores({
    llamaFactory,
    standard: {rouge1: 5, rouge2: 6, rougeL: 7, rougeLsum: 8, bleu: 9.87654},
  });
  expect(text).toContain('LLaMA-Factory    standard');
  expect(text).toMatch(/^BLEU-4 +1\.0000 +9\.8765$/m);
});
