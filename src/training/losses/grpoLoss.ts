import * as tf from '@tensorflow/tfjs';
import type {Batch} from '../../../models/batchLoss.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {assertKnownOptions, type OptionNames} from '../../../quant/knownOptions.ts';
import {show} from '../../../quant/show.ts';
import {warn} from '../../../quant/warn.ts';
import {type Answer, answerBatch, answerPrompts, lossesOf, promptsOf} from './answerPrompts.ts';
import {assertAnswers} from './assertAnswers.ts';
import {groupAdvantages, mean, type RewardScale, standardDeviation} from './groupAdvantages.ts';
import {assertReference, otherModel, type Reference, withReference} from './reference.ts';
import {promptText, type RewardFunction, rate} from './rewardFunction.ts';
import type {PromptBatch, Rollout, RolloutModel, RolloutOptions, Rollouts} from './rollouts.ts';
import {SAMPLING_DEFAULTS, SAMPLING_OPTIONS, type SamplingArgs, samplingOf} from './samplingArgs.ts';
import {stopGradient} from './stopGradient.ts';
import type {BatchLoss, LossModel, TrainingLoss} from './trainingLoss.ts';

/** Settings of {@link grpoLoss}, with the meanings and defaults of TRL's `GRPOConfig`. */
export interface GrpoLossArgs extends SamplingArgs {
  /** One function that rates answers, or several, whose rewards are added up. */
  rewards: RewardFunction | RewardFunction[];
  /** Weight of each function's rewards. Default 1. */
  rewardWeights?: number[];
  /** Answers to each prompt, 2 or more. Default 8. */
  generations?: number;
  /**
   * How tokens are averaged: `dapo` over all tokens of an optimizer step, `bnpo` over those of a batch, `grpo` over
   * those of an answer and then over answers, `dr_grpo` over `maxNewTokens`. Default `dapo`.
   */
  type?: GrpoLossType;
  /** How far the ratio of probabilities may fall below 1 before it is clipped. Default 0.2. */
  epsilon?: number;
  /** How far the ratio may rise above 1 before it is clipped. Default: `epsilon`. */
  epsilonHigh?: number;
  /** Limit of the ratio where it is not clipped otherwise, above `1 + epsilonHigh`. Default: none. */
  delta?: number;
  /** Weight of the divergence from the reference. Default 0: there is no reference. */
  beta?: number;
  /** The reference, with `beta`. Default: the model without its adapters. */
  reference?: Reference;
  /** What advantages are divided by. Default `group`: the standard deviation of a prompt's rewards. */
  scaleRewards?: RewardScale;
  /** Updates of the weights for each set of answers. Default 1. */
  iterations?: number;
  /** Whether each token has its own ratio, or an answer one for all of its tokens (GSPO). Default `token`. */
  importanceSampling?: 'token' | 'sequence';
  /** Whether answers that were cut off do not count. Default false. */
  maskTruncated?: boolean;
}
const GRPO_OPTIONS = {
  rewards: true,
  rewardWeights: true,
  generations: true,
  type: true,
  epsilon: true,
  epsilonHigh: true,
  delta: true,
  beta: true,
  reference: true,
  scaleRewards: true,
  iterations: true,
  importanceSampling: true,
  maskTruncated: true,
  ...SAMPLING_OPTIONS,
} satisfies OptionNames<GrpoLossArgs>;

/** How the losses of tokens are averaged, TRL's `loss_type`. */
export type GrpoLossType = (typeof TYPES)[number];
const TYPES = ['grpo', 'bnpo', 'dr_grpo', 'dapo'] as const;

const DEFAULTS = {
  generations: 8,
  type: 'dapo',
  epsilon: 0.2,
  beta: 0,
  scaleRewards: 'group',
  iterations: 1,
  importanceSampling: 'token',
  maskTruncated: false,
  ...SAMPLING_DEFAULTS,
} as const satisfies Partial<GrpoLossArgs>;

type Settings = Omit<GrpoLossArgs, keyof typeof DEFAULTS | 'epsilonHigh' | 'rewards' | 'rewardWeights'> &
  Required<Pick<GrpoLossArgs, keyof typeof DEFAULTS | 'epsilonHigh' | 'rewardWeights'>> & {
    rewards: RewardFunction[];
  };

/** Answers to prompts, in groups, with what the loss needs of them. */
export interface GroupBatch extends Batch {
  group: {
    /** How much better each answer is than the others, `[B]`. */
    advantages: number[];
    /** Rows that do not count. */
    isMasked: boolean[];
    /** `−log p` of each label, `[N]`, when the answers were given; by default as in the model now. */
    old?: Float32Array;
    /** The same in the reference. */
    reference?: Float32Array;
    /** Values of the metrics that are known beforehand. */
    metrics: number[];
  };
}

const CLIP_METRICS = ['clip_ratio/low_mean', 'clip_ratio/high_mean', 'clip_ratio/region_mean'] as const;
const ANSWER_METRICS = [
  'reward',
  'reward_std',
  'frac_reward_zero_std',
  'completions/mean_length',
  'completions/clipped_ratio',
] as const;

/**
 * Makes the loss of group-relative policy optimization: the model answers each prompt several times, functions rate the
 * answers, and an answer that earns more than the others to the same prompt becomes more likely. The data are records
 * with a `prompt`, whose other keys are passed to the functions. Formulas of TRL's `GRPOTrainer` (Shao et al. 2024).
 *
 * A step of `fitDataset` answers the prompts of its batches and updates the weights `iterations` times.
 *
 * @throws TfjsLoraError `INVALID_ARGUMENT` for an unknown option or a value out of range
 * @example
 * ```ts
 * import {AdamW, grpoLoss, Llama} from 'tfjs-lora';
 *
 * const model = await Llama.fromPretrained('Llama-3.2-1B-Instruct');
 * model.applyLoRA({rank: 8});
 * const rewards = (_prompt: string, answers: string[]) => answers.map((answer) => -Math.abs(answer.length - 100));
 * model.compile({optimizer: new AdamW({learningRate: 1e-6}), loss: grpoLoss({rewards, generations: 8})});
 * await model.fitDataset([{prompt: 'What is LoRA?'}], {batchSize: 1});
 * ```
 */
export function grpoLoss(args: GrpoLossArgs): TrainingLoss {
  assertKnownOptions('grpoLoss', args, GRPO_OPTIONS, 'required');
  const given = Object.fromEntries(Object.entries(args).filter(([, value]) => value !== undefined));
  const rewards = [args.rewards].flat();
  const epsilonHigh = args.epsilonHigh ?? args.epsilon ?? DEFAULTS.epsilon;
  const rewardWeights = args.rewardWeights ?? rewards.map(() => 1);
  const settings = {...DEFAULTS, epsilonHigh, ...given, rewards, rewardWeights} as Settings;
  assertSettings(settings);
  return new GrpoLoss(settings);
}

class GrpoLoss implements TrainingLoss, Rollouts {
  readonly name: string;
  readonly metrics: readonly string[];
  readonly exampleKind = 'answer';
  readonly averagesBatches: boolean;
  readonly otherModels: readonly object[];
  readonly rollouts = this;
  readonly windowsPerStep = 1;
  readonly canEvaluate = true;
  readonly answersPerPrompt: number;
  readonly maxNewTokens: number;

  constructor(private readonly settings: Settings) {
    const {type, rewards, beta, reference, generations, maxNewTokens} = settings;
    this.name = `grpoLoss ${type}`;
    this.averagesBatches = type !== 'dapo';
    this.answersPerPrompt = generations;
    this.maxNewTokens = maxNewTokens;
    const other = otherModel(reference);
    this.otherModels = other && beta > 0 ? [other] : [];
    const ofFunctions = namesOf(rewards).flatMap((name) => [`rewards/${name}/mean`, `rewards/${name}/std`]);
    this.metrics = [...ANSWER_METRICS, ...ofFunctions, ...(beta > 0 ? ['kl'] : []), ...CLIP_METRICS];
  }

  assertFits(model: LossModel): void {
    const {beta, reference} = this.settings;
    const what = `compile loss ${this.name}`;
    assertAnswers(what, model);
    if (beta > 0) assertReference(what, model, reference, ', or leave beta out, without which there is none');
  }

  async rollOut(
    model: RolloutModel,
    batches: PromptBatch[],
    {seed, padTokenId, isEvaluation, signal, onProgress}: RolloutOptions,
  ): Promise<Rollout> {
    const {generations, beta, iterations, maskTruncated, temperature, rewardWeights, scaleRewards} =
      this.settings;
    const sampling = samplingOf(this.settings);
    const groups: Answer[][] = [];
    for (const [i, prompts] of promptsOf(batches).entries())
      groups.push(
        await answerPrompts(model, prompts, generations, sampling, {
          seed: `${seed}/${i}`,
          signal,
          onProgress,
        }),
      );
    const answers = groups.flat();
    const rewards = await this.rate(model, answers, signal);
    const {advantages, ...rated} = groupAdvantages(rewards, rewardWeights, generations, scaleRewards);
    const metrics = [
      ...[rated.reward, rated.rewardStd, rated.withoutStd],
      mean(answers.map(({ids}) => ids.length)),
      mean(answers.map(({isTruncated}) => Number(isTruncated))),
      ...this.settings.rewards.flatMap((_, k) => {
        const applied = rewards.map((row) => row[k]).filter((reward) => reward !== null);
        return [mean(applied), standardDeviation(applied)];
      }),
    ];
    const window: GroupBatch[] = [];
    let first = 0;
    for (const group of groups) {
      const batch = answerBatch(group, padTokenId, model.config.maxPositionEmbeddings);
      const isOff = iterations > 1 && !isEvaluation; // later updates learn from answers of an earlier model
      window.push({
        ...batch,
        group: {
          advantages: advantages.slice(first, first + group.length),
          isMasked: group.map(({isTruncated}) => maskTruncated && isTruncated),
          ...(isOff && {old: await lossesOf(model as Required<LossModel>, batch, {temperature})}),
          ...(beta > 0 && {
            reference: await withReference(model, this.settings.reference, (reference) =>
              lossesOf(reference, batch, {temperature}),
            ),
          }),
          metrics,
        },
      });
      first += group.length;
    }
    const updates = Array.from({length: isEvaluation ? 1 : iterations}, () => window);
    return {updates, answers: this.scored(model, answers, rated.rewards)};
  }

  count(_model: LossModel, batch: Batch): number {
    const {type, maxNewTokens} = this.settings;
    const {isMasked} = groupOf(this.name, batch);
    if (type === 'grpo') return isMasked.length;
    if (type === 'dr_grpo') return isMasked.length * maxNewTokens;
    const lengths = answerLengths(batch);
    const counted = lengths.filter((_, row) => type === 'dapo' || !isMasked[row]);
    return Math.max(
      1,
      counted.reduce((sum, length) => sum + length, 0),
    );
  }

  compute(model: LossModel, given: Batch, pass: {training?: boolean; seed?: number}): BatchLoss {
    const {type, beta, temperature} = this.settings;
    const {inputIds, labels, attentionMask} = given;
    const group = groupOf(this.name, given);
    const {losses, counts} = model.tokenLosses!({inputIds, labels, attentionMask}, {...pass, temperature});
    const tokens = tokensOf(counts, group);
    const logps = tf.neg(losses); // [N]
    const ratios = this.ratios(logps, group.old, tokens); // [N]
    const policy = this.policyLoss(ratios, tf.tensor1d(tokens.advantages));
    const divergence = group.reference && beta > 0 ? divergenceFrom(group.reference, logps) : undefined;
    const all = divergence ? tf.add(policy, tf.mul(divergence, beta)) : policy;
    const weights = type === 'grpo' ? tokens.perRow : tokens.mask;
    const described = [
      ...(divergence ? [tf.sum(tf.mul(divergence, tf.tensor1d(tokens.perBatch)))] : []),
      ...this.clipped(ratios, tokens),
    ];
    return {
      loss: tf.sum(tf.mul(all, tf.tensor1d(weights))) as tf.Scalar,
      metrics: tf.concat([tf.tensor1d(group.metrics), tf.stack(described)]) as tf.Tensor1D,
    };
  }

  /** Computes how much likelier each label is than when the answers were given, `[N]`. */
  private ratios(logps: tf.Tensor, old: Float32Array | undefined, {counts, perRow}: Tokens): tf.Tensor {
    const change = tf.sub(logps, old ? tf.neg(tf.tensor1d(old)) : stopGradient(logps));
    if (this.settings.importanceSampling === 'token') return tf.exp(change);
    const rows = rowMatrix(counts); // [B, N]
    const means = tf.matMul(rows, tf.mul(change, tf.tensor1d(perRow)).reshape([-1, 1])); // [B, 1]
    return tf.exp(tf.matMul(means, rows, true)).flatten();
  }

  private policyLoss(ratios: tf.Tensor, advantages: tf.Tensor1D): tf.Tensor {
    const {epsilon, epsilonHigh, delta} = this.settings;
    const limited = delta === undefined ? ratios : tf.minimum(ratios, delta);
    const clipped = tf.clipByValue(ratios, 1 - epsilon, 1 + epsilonHigh);
    return tf.neg(tf.minimum(tf.mul(limited, advantages), tf.mul(clipped, advantages)));
  }

  /** Returns the shares of ratios that are clipped below, above and anywhere. */
  private clipped(ratios: tf.Tensor, {advantages, perBatch, perAnswer}: Tokens): tf.Tensor[] {
    const {epsilon, epsilonHigh, delta, importanceSampling} = this.settings;
    const limited = delta === undefined ? ratios : tf.minimum(ratios, delta);
    const signs = tf.tensor1d(advantages);
    const low = tf.logicalAnd(tf.less(limited, 1 - epsilon), tf.less(signs, 0));
    const high = tf.logicalAnd(tf.greater(limited, 1 + epsilonHigh), tf.greater(signs, 0));
    const weights = tf.tensor1d(importanceSampling === 'token' ? perBatch : perAnswer);
    return [low, high, tf.logicalOr(low, high)].map((is) => tf.sum(tf.mul(is.toFloat(), weights)));
  }

  /** Returns the rewards of each answer, by function. */
  private async rate(
    model: RolloutModel,
    answers: Answer[],
    signal: AbortSignal | undefined,
  ): Promise<(number | null)[][]> {
    const {generations, rewards} = this.settings;
    const names = namesOf(rewards);
    const rated: (number | null)[][] = [];
    for (let first = 0; first < answers.length; first += generations) {
      const group = answers.slice(first, first + generations);
      const columns: (number | null)[][] = [];
      for (const [k, reward] of rewards.entries()) {
        columns.push(await rate(names[k], reward, model, group));
        signal?.throwIfAborted();
      }
      rated.push(...group.map((_, row) => columns.map((column) => column[row])));
    }
    if (rated.some((row) => row.every((reward) => reward === null)))
      warn('grpoLoss rewards: all functions returned null for an answer, which counts as 0');
    return rated;
  }

  private scored(model: RolloutModel, answers: Answer[], rewards: number[]): Rollout['answers'] {
    const {generations} = this.settings;
    return Array.from({length: answers.length / generations}, (_, g) => {
      const of = <T>(values: T[]) => values.slice(g * generations, (g + 1) * generations);
      const group = of(answers);
      return {
        prompt: promptText(model, group[0]),
        answers: group.map(({text}) => text),
        rewards: of(rewards),
      };
    });
  }
}

/** Weights of a batch's labels, `[N]` each. */
interface Tokens {
  /** Labels of each row. */
  counts: number[];
  /** The advantage of a label's answer. */
  advantages: number[];
  /** 1 where a label counts. */
  mask: number[];
  /** The mask divided by the number of an answer's labels that count. */
  perRow: number[];
  /** The mask divided by the number of all labels that count. */
  perBatch: number[];
  /** Parts that add up to 1 / B over each answer. */
  perAnswer: number[];
}

function tokensOf(counts: number[], {advantages, isMasked}: GroupBatch['group']): Tokens {
  const spread = (value: (row: number) => number) =>
    counts.flatMap((count, row) => new Array<number>(count).fill(value(row)));
  const mask = spread((row) => Number(!isMasked[row]));
  const counted = Math.max(
    1,
    mask.reduce((sum, each) => sum + each, 0),
  );
  return {
    counts,
    advantages: spread((row) => advantages[row]),
    mask,
    perRow: spread((row) => Number(!isMasked[row]) / counts[row]),
    perBatch: mask.map((each) => each / counted),
    perAnswer: spread((row) => 1 / (counts[row] * counts.length)),
  };
}

/** Returns the matrix `[B, N]` with 1 where a label belongs to a row. */
function rowMatrix(counts: number[]): tf.Tensor2D {
  const labels = counts.reduce((sum, count) => sum + count, 0);
  const values = new Float32Array(counts.length * labels);
  let at = 0;
  for (const [row, count] of counts.entries()) {
    values.fill(1, row * labels + at, row * labels + at + count);
    at += count;
  }
  return tf.tensor2d(values, [counts.length, labels]);
}

/** Estimates the divergence from the reference at each label, `[N]`: `r − log r − 1` with `r = p_reference / p`. */
function divergenceFrom(reference: Float32Array, logps: tf.Tensor): tf.Tensor {
  const change = tf.sub(tf.neg(tf.tensor1d(reference)), logps);
  return tf.sub(tf.sub(tf.exp(change), change), 1);
}

function groupOf(name: string, batch: Batch): GroupBatch['group'] {
  const {group} = batch as Partial<GroupBatch>;
  if (group) return group;
  throw new TfjsLoraError(
    'UNSUPPORTED',
    `${name}: expected answers that the model has given in fitDataset, got a batch of token ids. Call fitDataset.`,
  );
}

const answerLengths = ({labels}: Batch): number[] =>
  (labels as number[][]).map((row) => row.filter((label) => label >= 0).length);

/** Returns the functions' names for metrics; those without a name of their own are numbered. */
function namesOf(rewards: RewardFunction[]): string[] {
  const isAlone = (name: string) => rewards.filter((each) => each.name === name).length === 1;
  return rewards.map(({name}, k) => (name !== '' && isAlone(name) ? name : `reward_${k}`));
}

function assertSettings(settings: Settings): void {
  const assert = (option: keyof GrpoLossArgs, isRight: boolean, expected: string) => {
    if (isRight) return;
    const got = show(settings[option]);
    throw new TfjsLoraError('INVALID_ARGUMENT', `grpoLoss ${option}: expected ${expected}, got ${got}`);
  };
  const {rewards, rewardWeights, epsilon, epsilonHigh, delta, beta, reference} = settings;
  const isFunction = (value: unknown) => typeof value === 'function';
  assert('rewards', rewards.length > 0 && rewards.every(isFunction), 'a function or a list of functions');
  const areWeights = rewardWeights.length === rewards.length && rewardWeights.every(Number.isFinite);
  assert('rewardWeights', areWeights, `${rewards.length} numbers, one for each function`);
  const {generations, iterations, type, scaleRewards, importanceSampling, temperature} = settings;
  assert('generations', Number.isInteger(generations) && generations > 1, 'an integer from 2');
  assert('iterations', Number.isInteger(iterations) && iterations > 0, 'a positive integer');
  assert('type', TYPES.includes(type), TYPES.join(', '));
  assert('scaleRewards', ['group', 'batch', 'none'].includes(scaleRewards), 'group, batch or none');
  assert('importanceSampling', ['token', 'sequence'].includes(importanceSampling), 'token or sequence');
  assert('epsilon', epsilon >= 0 && epsilon < 1, 'a number from 0 and below 1');
  assert('epsilonHigh', epsilonHigh >= 0 && Number.isFinite(epsilonHigh), 'a number from 0');
  assert('delta', delta === undefined || delta > 0, 'a number above 0');
  assert('beta', beta >= 0 && Number.isFinite(beta), 'a number from 0');
  assert('reference', reference === undefined || beta > 0, 'none without beta');
  assert('temperature', temperature > 0 && Number.isFinite(temperature), 'a number above 0');
}
