import {existsSync} from 'node:fs';
import {join, resolve} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import type {GenerativeModel} from '../../../models/generation/generateOptions.ts';
import type {Tokenizer} from '../../../models/tokenizer.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {assertKnownOptions, type OptionNames} from '../../../quant/knownOptions.ts';
import {makeFolder} from '../../../quant/safetensors/makeFolder.ts';
import {writeWhole} from '../../../quant/safetensors/writeWhole.ts';
import {show} from '../../../quant/show.ts';
import {MersenneTwister} from '../../data/datasets/mersenneTwister.ts';
import {NumpyRandom} from '../../data/datasets/numpyRandom.ts';
import {encodeTurns} from '../../data/templates/encodeTurns.ts';
import type {Message} from '../../data/templates/template.ts';
import {type ResolvedTemplate, resolveTemplate} from '../../data/templates/templateRegistry.ts';
import {type BenchmarkQuestion, type BenchmarkSubject, CATEGORIES, CHOICES} from './loadBenchmark.ts';

export interface BenchmarkOptions {
  /** Number of examples before each question. Default 5. */
  shots?: number;
  /** Language of the instructions around the questions. Default `en`. */
  language?: BenchmarkLanguage;
  /** Chat format, such as `fewshot` (plain texts). Default: the model's own chat template, or else `empty`. */
  template?: string;
  /** Questions in a batch. Default 4. */
  batchSize?: number;
  /** Seed for the choice of examples. Default 42. */
  seed?: number;
  /** New folder for `results.json` and `results.log`. Default: nothing is written. */
  outputDir?: string;
  /** Called before the first batch and after each one. */
  onProgress?: (progress: {done: number; total: number; subject: string}) => void;
  /** Stops the benchmark after the current batch, with the signal's reason as the error. */
  signal?: AbortSignal;
}
const BENCHMARK_OPTIONS = {
  shots: true,
  language: true,
  template: true,
  batchSize: true,
  seed: true,
  outputDir: true,
  onProgress: true,
  signal: true,
} satisfies OptionNames<BenchmarkOptions>;

export interface BenchmarkResult {
  /** Share of right answers in percent, of all questions (`Average`) and by category, in LLaMA-Factory's order. */
  scores: Record<string, number>;
  /** The letters that the model chose, by subject. */
  answers: Record<string, string[]>;
  seconds: number;
}

/** LLaMA-Factory's words around the questions, by language. */
const WORDS = {
  en: {
    about: (subject: string) =>
      `The following are multiple choice questions (with answers) about ${subject}.\n\n`,
    answer: '\nAnswer:',
  },
  zh: {
    about: (subject: string) => `以下是中国关于${subject}考试的单项选择题，请选出其中的正确答案。\n\n`,
    answer: '\n答案：',
  },
};
export type BenchmarkLanguage = keyof typeof WORDS;

/**
 * Asks a model the questions of a benchmark and counts its right answers, like LLaMA-Factory's `eval`. The answer is
 * the letter with the highest logit after the prompt. The prompt first shows some questions with their answers, which
 * are the same as in LLaMA-Factory for the same seed.
 *
 * @param subjects from {@link loadBenchmark}
 * @throws TfjsLoraError `INVALID_ARGUMENT` for an option out of range, a folder that exists, or a prompt that does not
 *   fit the model; `UNSUPPORTED` when the model has no tokenizer
 * @example
 * ```ts
 * import {Llama} from 'tfjs-lora';
 * import {formatBenchmark, loadBenchmark, scoreBenchmark} from 'tfjs-lora/evaluation';
 *
 * const model = await Llama.fromPretrained('Llama-3.2-1B-Instruct');
 * const {scores} = await scoreBenchmark(model, await loadBenchmark('mmlu_test'), {template: 'fewshot'});
 * console.log(formatBenchmark(scores));
 * ```
 */
export async function scoreBenchmark(
  model: GenerativeModel,
  subjects: readonly BenchmarkSubject[],
  options: BenchmarkOptions = {},
): Promise<BenchmarkResult> {
  const {shots, language, batchSize, seed} = assertBenchmarkOptions(options);
  const {outputDir, onProgress, signal} = options;
  const {tokenizer} = model;
  if (!tokenizer) {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      'scoreBenchmark: expected a model with a tokenizer, got one without',
    );
  }
  const template = resolveTemplate(options.template, tokenizer);
  const choiceIds = CHOICES.map((choice) => tokenizer.encode(choice, {addSpecialTokens: false}).at(-1)!);
  const random = new MersenneTwister(seed);
  const started = performance.now();
  const total = subjects.reduce((sum, {questions}) => sum + questions.length, 0);
  const answers: Record<string, string[]> = {};
  let done = 0;
  for (const subject of subjects) {
    const own: string[] = [];
    answers[subject.id] = own;
    if (done === 0) onProgress?.({done, total, subject: subject.id});
    const prompts = subject.questions.map((question) => {
      const shown = examplesFor(subject.examples, shots, random);
      return promptOf(subject, shown, question, language);
    });
    for (let at = 0; at < prompts.length; at += batchSize) {
      signal?.throwIfAborted();
      const rows = prompts.slice(at, at + batchSize).map((messages, row) => {
        const ids = idsOf(messages, template, tokenizer);
        assertFits(ids, `benchmark ${subject.id} question ${at + row}`, model);
        return ids;
      });
      own.push(...(await chooseAnswers(model, rows, choiceIds)));
      done += rows.length;
      onProgress?.({done, total, subject: subject.id});
      await tf.nextFrame(); // let signals through
    }
  }
  const result = {
    scores: scoresOf(subjects, answers),
    answers,
    seconds: (performance.now() - started) / 1000,
  };
  if (outputDir !== undefined) await writeBenchmark(outputDir, result);
  return result;
}

/**
 * Checks the options of {@link scoreBenchmark}, and fills in defaults.
 *
 * @throws TfjsLoraError `INVALID_ARGUMENT` for an unknown option, one out of range, or a folder that exists
 */
export function assertBenchmarkOptions(
  options: BenchmarkOptions,
): Required<Pick<BenchmarkOptions, 'shots' | 'language' | 'batchSize' | 'seed'>> {
  assertKnownOptions('scoreBenchmark', options, BENCHMARK_OPTIONS);
  const {shots = 5, language = 'en', batchSize = 4, seed = 42, outputDir} = options;
  const assert = (option: string, value: unknown, isRight: boolean, expected: string) => {
    if (isRight) return;
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `scoreBenchmark ${option}: expected ${expected}, got ${show(value)}`,
    );
  };
  assert('shots', shots, Number.isInteger(shots) && shots >= 0, 'a whole number from 0');
  assert('batchSize', batchSize, Number.isInteger(batchSize) && batchSize > 0, 'a positive integer');
  assert('seed', seed, Number.isInteger(seed) && seed >= 0 && seed < 2 ** 32, 'an integer from 0 to 2³² − 1');
  assert('language', language, Object.hasOwn(WORDS, language), Object.keys(WORDS).join(' or '));
  const exists = outputDir !== undefined && existsSync(outputDir);
  assert('outputDir', outputDir && resolve(outputDir), !exists, 'a folder that does not exist yet');
  return {shots, language, batchSize, seed};
}

/** Draws the examples of one question, as `dataset.shuffle().select(range(shots))`. */
function examplesFor(
  examples: BenchmarkQuestion[],
  shots: number,
  random: MersenneTwister,
): BenchmarkQuestion[] {
  if (examples.length === 0) return []; // an empty data set is not shuffled
  const order = new NumpyRandom(random.seedOfShuffle()).permutation(examples.length);
  return order.slice(0, shots).map((i) => examples[i]);
}

function promptOf(
  {name}: BenchmarkSubject,
  examples: BenchmarkQuestion[],
  question: BenchmarkQuestion,
  language: BenchmarkLanguage,
): Message[] {
  const {about, answer} = WORDS[language];
  const asked = (item: BenchmarkQuestion): Message => {
    const options = item.options.map((option, i) => `\n${CHOICES[i]}. ${option}`);
    return {role: 'user', content: `${item.question}${options.join('')}${answer}`};
  };
  const messages = [
    ...examples.flatMap((item): Message[] => [asked(item), {role: 'assistant', content: item.answer}]),
    asked(question),
  ];
  messages[0] = {...messages[0], content: about(name) + messages[0].content};
  return messages;
}

const idsOf = (messages: Message[], template: ResolvedTemplate, tokenizer: Tokenizer): number[] =>
  encodeTurns(template, tokenizer, messages).flat();

function assertFits(ids: number[], what: string, {config}: GenerativeModel): void {
  if (ids.length <= config.maxPositionEmbeddings) return;
  throw new TfjsLoraError(
    'INVALID_ARGUMENT',
    `${what}: expected at most ${config.maxPositionEmbeddings} tokens, the model's maxPositionEmbeddings, got ` +
      `${ids.length}. Show fewer examples.`,
  );
}

/** Returns the letter with the highest logit after each prompt. Logits exist for the last positions only. */
async function chooseAnswers(
  model: GenerativeModel,
  rows: number[][],
  choiceIds: number[],
): Promise<string[]> {
  const longest = Math.max(...rows.map(({length}) => length));
  const padded = (fill: (row: number[], t: number) => number) =>
    tf.tensor2d(
      rows.map((row) => Array.from({length: longest}, (_, t) => fill(row, t))),
      undefined,
      'int32',
    );
  const chosen = tf.tidy(() => {
    const inputIds = padded((row, t) => row[t] ?? 0); // [B, T]
    const isPadded = rows.some(({length}) => length < longest);
    const attentionMask = isPadded ? padded((row, t) => (t < row.length ? 1 : 0)) : undefined;
    const hidden = model.forward(inputIds, {attentionMask}); // [B, T, C]
    const flat = tf.reshape(hidden, [-1, hidden.shape[2]]);
    const last = tf.tensor1d(
      rows.map(({length}, row) => row * longest + length - 1),
      'int32',
    );
    const logits = model.logitsOf(tf.gather(flat, last)); // [B, V]
    return tf.gather(logits, tf.tensor1d(choiceIds, 'int32'), 1); // [B, 4]
  });
  const logits = await chosen.data().finally(() => chosen.dispose());
  return rows.map((_, row) => {
    const own = [...logits.subarray(row * CHOICES.length, (row + 1) * CHOICES.length)];
    return CHOICES[own.indexOf(Math.max(...own))];
  });
}

function scoresOf(
  subjects: readonly BenchmarkSubject[],
  answers: Record<string, string[]>,
): Record<string, number> {
  const scores: Record<string, number> = {};
  for (const name of ['Average', ...CATEGORIES]) {
    const counted = subjects.filter(({category}) => name === 'Average' || category === name);
    let [right, total] = [0, 0];
    for (const {id, questions} of counted) {
      total += questions.length;
      right += questions.filter(({answer}, i) => answer === answers[id][i]).length;
    }
    if (total > 0) scores[name] = 100 * (right / total);
  }
  return scores;
}

/** Formats scores as LLaMA-Factory prints them and writes them to `results.log`. */
export function formatBenchmark(scores: Record<string, number>): string {
  return Object.entries(scores)
    .map(([name, score]) => `${name.padStart(15)}: ${twoPlaces(score)}`)
    .join('\n');
}

/** Rounds as Python does, half to even. A double is half-way only if it is an odd multiple of 1/8. */
function twoPlaces(value: number): string {
  const eighths = value * 8;
  if (!Number.isInteger(eighths) || eighths % 2 === 0) return value.toFixed(2);
  const below = Math.floor(value * 100);
  return ((below % 2 === 0 ? below : below + 1) / 100).toFixed(2);
}

/** Writes LLaMA-Factory's `results.json` and `results.log` to a new folder. */
async function writeBenchmark(folder: string, {scores, answers}: BenchmarkResult): Promise<void> {
  makeFolder(folder);
  const numbered = Object.entries(answers).map(([id, letters]) => [
    id,
    Object.fromEntries(letters.entries()),
  ]);
  writeWhole(join(folder, 'results.json'), JSON.stringify(Object.fromEntries(numbered), null, 2));
  writeWhole(join(folder, 'results.log'), formatBenchmark(scores));
}
