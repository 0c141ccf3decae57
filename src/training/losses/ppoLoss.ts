import * as tf from '@tensorflow/tfjs';
import type {ValueHead} from '../../../layers/valueHead.ts';
import type {Batch} from '../../../models/batchLoss.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {assertKnownOptions, type OptionNames} from '../../../quant/knownOptions.ts';
import {show} from '../../../quant/show.ts';
import {shuffled} from '../../data/batches/batches.ts';
import {type Answer, answerBatch, answerPrompts, lossesOf, promptsOf, valuesOf} from './answerPrompts.ts';
import {assertAnswers} from './assertAnswers.ts';
import {mean} from './groupAdvantages.ts';
import type {LossModel} from './lossModel.ts';
import {ppoAdvantages, type RatedAnswer} from './ppoAdvantages.ts';
import {adaptedCoefficient, type Moments, NO_SCORES, normalizedScores, withScores} from './ppoState.ts';
import {assertReference, otherModel, type Reference, withReference} from './reference.ts';
import {promptText, type RewardFunction, rate} from './rewardFunction.ts';
import type {PromptBatch, Rollout, RolloutModel, RolloutOptions, Rollouts} from './rollouts.ts';
import {SAMPLING_DEFAULTS, SAMPLING_OPTIONS, type SamplingArgs, samplingOf} from './samplingArgs.ts';
import {stopGradient} from './stopGradient.ts';
import type {BatchLoss, TrainingLoss} from './trainingLoss.ts';

/** Another model with a value head, which scores answers. */
export type RewardModel = Required<Pick<LossModel, 'values'>>;

/** An adapter that the trained model also has, with the value head that was trained beside it. */
export interface RewardAdapter {
  adapter: string;
  valueHead: ValueHead;
}

/** Scores whole texts of prompt and answer, with their special tokens, as a server does. */
export interface RewardTexts {
  scoreTexts(texts: string[]): number[] | Promise<number[]>;
}

/** Settings of {@link ppoLoss}, with the meanings and defaults of LLaMA-Factory and of TRL 0.9's `PPOConfig`. */
export interface PpoLossArgs extends SamplingArgs {
  /**
   * Scores answers: a function, a reward model, an adapter of the trained model, or an object that scores whole texts.
   */
  rewards: RewardFunction | RewardModel | RewardAdapter | RewardTexts;
  /** Accumulation windows of answers in a step. Default 1. */
  bufferSize?: number;
  /** Passes over the answers of a step. Default 4. */
  epochs?: number;
  /** Whether scores are normalized by the mean and standard deviation of all scores so far. Default false. */
  scoreNorm?: boolean;
  /** Whether the rewards of tokens are divided by their standard deviation. Default false. */
  whitenRewards?: boolean;
  /** Divergence from the reference, summed over an answer, that the weight of the divergence aims at. Default 6. */
  target?: number;
  /** Weight of the divergence in the first step. Default 0.2. */
  klCoefficient?: number;
  /** Number of answers over which the weight may adapt; larger is slower. Default 10000. */
  horizon?: number;
  /** The reference that answers are compared with. Default: the model without its adapters. */
  reference?: Reference;
  /** Discount of later rewards. Default 1. */
  gamma?: number;
  /** Discount in generalized advantage estimation. Default 0.95. */
  lambda?: number;
  /** How far the ratio of probabilities may be from 1 before it is clipped. Default 0.2. */
  clipRange?: number;
  /** How far a value may move before it is clipped. Default 0.2. */
  clipRangeValue?: number;
  /** Weight of the values' loss. Default 0.1. */
  valueCoefficient?: number;
}
const PPO_OPTIONS = {
  rewards: true,
  bufferSize: true,
  epochs: true,
  scoreNorm: true,
  whitenRewards: true,
  target: true,
  klCoefficient: true,
  horizon: true,
  reference: true,
  gamma: true,
  lambda: true,
  clipRange: true,
  clipRangeValue: true,
  valueCoefficient: true,
  ...SAMPLING_OPTIONS,
} satisfies OptionNames<PpoLossArgs>;

const DEFAULTS = {
  bufferSize: 1,
  epochs: 4,
  scoreNorm: false,
  whitenRewards: false,
  target: 6,
  klCoefficient: 0.2,
  horizon: 10_000,
  gamma: 1,
  lambda: 0.95,
  clipRange: 0.2,
  clipRangeValue: 0.2,
  valueCoefficient: 0.1,
  ...SAMPLING_DEFAULTS,
} as const satisfies Partial<PpoLossArgs>;

type Settings = Required<Omit<PpoLossArgs, 'reference'>> & Pick<PpoLossArgs, 'reference'>;

/** Mean ratio of probabilities above which a batch is left out, as in TRL. */
const HIGHEST_RATIO = 10;

/** Answers with what PPO learns from, `[N]` each: one number for each label. */
export interface PpoBatch extends Batch {
  ppo: {
    /** `−log p` and values when the answers were given. */
    old: number[];
    values: number[];
    advantages: number[];
    returns: number[];
    /** Values of the metrics that are known beforehand. */
    metrics: number[];
  };
}

/** An answer of a step, with its part of a {@link PpoBatch}. */
interface Row extends Omit<PpoBatch['ppo'], 'metrics'> {
  answer: Answer;
}

const STEP_METRICS = [
  'reward',
  'objective/kl',
  'objective/kl_coef',
  'ppo/mean_non_score_reward',
  'tokens/responses_len_mean',
] as const;
const BATCH_METRICS = [
  'ppo/loss/policy',
  'ppo/loss/value',
  'ppo/policy/approxkl',
  'ppo/policy/clipfrac',
  'ppo/val/clipfrac',
] as const;

/**
 * Makes the loss of proximal policy optimization: the model answers prompts, a reward model or a function scores the
 * answers, and a value head learns to predict the scores. Answers that are better than predicted become more likely.
 * The model needs a value head that trains: `model.addValueHead()`. The data are records with a `prompt`.
 *
 * A step of `fitDataset` answers the prompts of `bufferSize` accumulation windows, and passes over the answers `epochs`
 * times. Formulas of LLaMA-Factory's stage `ppo`, whose trainer is TRL 0.9's.
 *
 * @throws TfjsLoraError `INVALID_ARGUMENT` for an unknown option or a value out of range
 * @example
 * ```ts
 * import {AdamW, Llama, ppoLoss} from 'tfjs-lora';
 *
 * const model = await Llama.fromPretrained('Llama-3.2-1B-Instruct');
 * model.applyLoRA({rank: 8}).addValueHead();
 * const judge = await Llama.fromPretrained('reward-model');
 * await judge.loadValueHead('reward-model');
 * model.compile({optimizer: new AdamW({learningRate: 1e-5}), loss: ppoLoss({rewards: judge})});
 * await model.fitDataset([{prompt: 'What is LoRA?'}], {batchSize: 4});
 * ```
 */
export function ppoLoss(args: PpoLossArgs): TrainingLoss {
  assertKnownOptions('ppoLoss', args, PPO_OPTIONS, 'required');
  const given = Object.fromEntries(Object.entries(args).filter(([, value]) => value !== undefined));
  const settings = {...DEFAULTS, ...given} as Settings;
  assertSettings(settings);
  return new PpoLoss(settings);
}

class PpoLoss implements TrainingLoss, Rollouts {
  readonly name = 'ppoLoss';
  readonly metrics = [...STEP_METRICS, ...BATCH_METRICS];
  readonly exampleKind = 'answer';
  readonly averagesBatches = true;
  readonly otherModels: readonly object[];
  readonly rollouts = this;
  readonly windowsPerStep: number;
  readonly answersPerPrompt = 1;
  readonly maxNewTokens: number;
  readonly canEvaluate = false;
  /** Weight of the divergence from the reference, and moments of the scores so far. */
  private state: {klCoefficient: number; scores: Moments};

  constructor(private readonly settings: Settings) {
    const {bufferSize, maxNewTokens, klCoefficient, rewards, reference} = settings;
    this.windowsPerStep = bufferSize;
    this.maxNewTokens = maxNewTokens;
    this.state = {klCoefficient, scores: NO_SCORES};
    this.otherModels = [isModel(rewards) ? rewards : [], otherModel(reference) ?? []].flat();
  }

  getState(): Record<string, unknown> {
    return {...this.state};
  }

  setState(state: Record<string, unknown>): void {
    this.state = state as typeof this.state;
  }

  assertFits(model: LossModel): void {
    const {rewards, reference} = this.settings;
    const what = `compile loss ${this.name}`;
    assertAnswers(what, model);
    assertReference(what, model, reference);
    if (!model.valueHead?.trainable) {
      throw new TfjsLoraError(
        'UNSUPPORTED',
        `${what}: expected a model with a value head that trains, got ${model.valueHead ? 'a frozen one' : 'none'}. ` +
          'Call addValueHead(), or loadValueHead(folder, {trainable: true}).',
      );
    }
    if (!isAdapter(rewards)) return;
    const {activeAdapters = [], adapterNames = []} = model;
    if (adapterNames.includes(rewards.adapter) && !activeAdapters.includes(rewards.adapter)) return;
    throw new TfjsLoraError(
      'UNKNOWN_ADAPTER',
      `${what} rewards: expected an adapter that the model has and does not train, got ${show(rewards.adapter)}`,
    );
  }

  async rollOut(
    model: RolloutModel,
    batches: PromptBatch[],
    {seed, batchesPerStep, padTokenId, signal, onProgress}: RolloutOptions,
  ): Promise<Rollout> {
    const {epochs, scoreNorm} = this.settings;
    const answered: Answer[][] = [];
    for (const [i, prompts] of promptsOf(batches).entries()) {
      const given = {seed: `${seed}/${i}`, signal, onProgress};
      answered.push(await answerPrompts(model, prompts, 1, samplingOf(this.settings), given));
    }
    const answers = answered.flat();
    const longest = Math.max(...answers.map(tokensOf));
    const padded = (group: Answer[]) => answerBatch(group, padTokenId, model.config.maxPositionEmbeddings);
    const scored: number[] = [];
    const seen: Omit<RatedAnswer, 'score'>[] = [];
    for (const group of answered) {
      const batch = padded(group);
      scored.push(...(await this.score(model, group, batch)));
      signal?.throwIfAborted();
      seen.push(...(await this.look(model, group, batch, longest)));
    }
    const moments = scoreNorm ? withScores(this.state.scores, scored) : this.state.scores;
    const scores = scoreNorm ? normalizedScores(moments, scored) : scored;
    const {klCoefficient} = this.state;
    const rated = seen.map((each, i) => ({...each, score: scores[i]}));
    const {advantages, returns, kl, nonScoreReward} = ppoAdvantages(rated, klCoefficient, this.settings);
    const lengths = answers.map(({ids}) => ids.length);
    const metrics = [mean(scored), kl, klCoefficient, nonScoreReward, mean(lengths)];
    const rows = answers.map((answer, i): Row => {
      const {old, values} = seen[i];
      return {
        answer,
        ...{old: [...(old as Float32Array)], values: [...(values as Float32Array)]},
        ...{advantages: advantages[i], returns: returns[i]},
      };
    });
    const toBatch = (group: Row[]): PpoBatch => ({
      ...padded(group.map(({answer}) => answer)),
      ppo: {
        old: group.flatMap(({old}) => old),
        values: group.flatMap(({values}) => values),
        advantages: group.flatMap((row) => row.advantages),
        returns: group.flatMap((row) => row.returns),
        metrics,
      },
    });
    const updates = Array.from({length: epochs}, (_, epoch) => {
      const order = shuffled(rows, `${seed}/${epoch}`);
      return chunks(chunks(order, answered[0].length).map(toBatch), batchesPerStep);
    });
    this.state = {
      klCoefficient: adaptedCoefficient(klCoefficient, kl, answers.length, this.settings),
      scores: moments,
    };
    return {
      updates: updates.flat(),
      answers: answers.map((answer, i) => ({
        prompt: promptText(model, answer),
        answers: [answer.text],
        rewards: [scored[i]],
      })),
    };
  }

  count(_model: LossModel, batch: Batch): number {
    return ppoOf(batch).old.length;
  }

  compute(model: LossModel, batch: Batch, pass: {training?: boolean; seed?: number}): BatchLoss {
    const {clipRange, clipRangeValue, valueCoefficient} = this.settings;
    const {inputIds, labels, attentionMask} = batch;
    const {metrics, ...given} = ppoOf(batch);
    const [old, before, advantages, returns] = [given.old, given.values, given.advantages, given.returns].map(
      (numbers) => tf.tensor1d(numbers),
    );
    const options = {...pass, values: true};
    const {losses, values} = model.tokenLosses!({inputIds, labels, attentionMask}, options);
    const change = tf.sub(old, losses); // log p − log p_old, [N]
    const ratios = tf.exp(change);
    const free = tf.neg(tf.mul(advantages, ratios));
    const clipped = tf.neg(tf.mul(advantages, tf.clipByValue(ratios, 1 - clipRange, 1 + clipRange)));
    const policy = tf.maximum(free, clipped);
    const near = tf.minimum(
      tf.maximum(values!, tf.sub(before, clipRangeValue)),
      tf.add(before, clipRangeValue),
    );
    const freeValue = tf.square(tf.sub(values!, returns));
    const clippedValue = tf.square(tf.sub(near, returns));
    const value = tf.mul(tf.maximum(freeValue, clippedValue), 0.5);
    const isUsed = stopGradient(ratios, (all) => tf.lessEqual(tf.mean(all), HIGHEST_RATIO).toFloat());
    const loss = tf.mul(tf.sum(tf.add(policy, tf.mul(value, valueCoefficient))), isUsed);
    const described = [
      tf.mul(tf.mean(policy), isUsed),
      tf.mul(tf.mean(value), isUsed),
      tf.mul(tf.mean(tf.square(change)), 0.5),
      tf.mean(tf.greater(clipped, free).toFloat()),
      tf.mean(tf.greater(clippedValue, freeValue).toFloat()),
    ];
    return {
      loss: loss as tf.Scalar,
      metrics: tf.concat([tf.tensor1d(metrics), tf.stack(described)]) as tf.Tensor1D,
    };
  }

  /** Scores the answers to prompts. */
  private async score(model: RolloutModel, answers: Answer[], batch: Batch): Promise<number[]> {
    const {rewards} = this.settings;
    if (typeof rewards === 'function') {
      const scores: number[] = [];
      for (const answer of answers) {
        const [score] = await rate(rewards.name || 'function', rewards, model, [answer]);
        scores.push(score ?? 0);
      }
      return scores;
    }
    if (isOfTexts(rewards)) {
      const ids = answers.map((answer) => [...answer.prompt.inputIds, ...answer.ids]);
      return rewards.scoreTexts(ids.map((each) => model.tokenizer!.decode(each)));
    }
    const at = answers.map((answer) => tokensOf(answer) - 1);
    const {inputIds, attentionMask} = batch;
    const run = (judge: RewardModel, head?: ValueHead) =>
      tf.tidy(() => judge.values({inputIds, attentionMask}, {at, head}));
    const scores = isAdapter(rewards)
      ? model.withAdapters!([rewards.adapter], () => run(model as RewardModel, rewards.valueHead))
      : run(rewards);
    return [...(await valuesOf(scores))];
  }

  /** Computes what the model and the reference say of answers. */
  private async look(
    model: RolloutModel,
    answers: Answer[],
    batch: Batch,
    longest: number,
  ): Promise<Omit<RatedAnswer, 'score'>[]> {
    const computed = tf.tidy(() => {
      const {losses, values} = model.tokenLosses!(batch, {values: true});
      return tf.stack([losses, values!]);
    });
    const both = await valuesOf(computed); // [2, N]
    const reference = await withReference(model, this.settings.reference, (other) => lossesOf(other, batch));
    let first = 0;
    return answers.map((answer) => {
      const [from, to] = [first, first + answer.ids.length];
      first = to;
      return {
        old: both.slice(from, to),
        values: both.slice(reference.length + from, reference.length + to),
        reference: reference.slice(from, to),
        padding: longest - tokensOf(answer),
      };
    });
  }
}

const isAdapter = (rewards: PpoLossArgs['rewards']): rewards is RewardAdapter =>
  typeof rewards === 'object' && 'adapter' in rewards;

const isOfTexts = (rewards: PpoLossArgs['rewards']): rewards is RewardTexts =>
  typeof rewards === 'object' && 'scoreTexts' in rewards;

const isModel = (rewards: PpoLossArgs['rewards']): rewards is RewardModel =>
  typeof rewards === 'object' && 'values' in rewards;

/** Number of tokens of a prompt and its answer. */
const tokensOf = ({prompt: {inputIds}, ids}: Answer): number => inputIds.length + ids.length;

function chunks<T>(items: T[], size: number): T[][] {
  return Array.from({length: Math.ceil(items.length / size)}, (_, i) =>
    items.slice(i * size, (i + 1) * size),
  );
}

function ppoOf(batch: Batch): PpoBatch['ppo'] {
  const {ppo} = batch as Partial<PpoBatch>;
  if (ppo) return ppo;
  throw new TfjsLoraError(
    'UNSUPPORTED',
    'ppoLoss: expected answers that the model has given in fitDataset, got a batch of token ids. Call fitDataset.',
  );
}

function assertSettings(settings: Settings): void {
  const assert = (options: (keyof PpoLossArgs)[], isRight: (value: number) => boolean, expected: string) => {
    for (const option of options) {
      const value = settings[option];
      if (isRight(value as number)) continue;
      throw new TfjsLoraError(
        'INVALID_ARGUMENT',
        `ppoLoss ${option}: expected ${expected}, got ${show(value)}`,
      );
    }
  };
  const {rewards} = settings;
  const isObject = typeof rewards === 'object' && rewards !== null;
  if (
    typeof rewards !== 'function' &&
    !(isObject && [isModel, isAdapter, isOfTexts].some((is) => is(rewards)))
  ) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `ppoLoss rewards: expected a function, a model with a value head, {adapter, valueHead} or {scoreTexts}, got ${show(rewards)}`,
    );
  }
  assert(['bufferSize', 'epochs'], (value) => Number.isInteger(value) && value > 0, 'a positive integer');
  const isPositive = (value: number) => value > 0 && Number.isFinite(value);
  assert(['target', 'horizon', 'temperature', 'clipRangeValue'], isPositive, 'a number above 0');
  assert(
    ['klCoefficient', 'valueCoefficient'],
    (value) => value >= 0 && Number.isFinite(value),
    'a number from 0',
  );
  assert(['gamma', 'lambda'], (value) => value >= 0 && value <= 1, 'a number from 0 to 1');
  assert(['clipRange'], (value) => value > 0 && value < 1, 'a number between 0 and 1');
}
