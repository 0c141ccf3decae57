import * as tf from '@tensorflow/tfjs';
import type {Batch, TokenLosses} from '../../../models/batchLoss.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {assertKnownOptions, type OptionNames} from '../../../quant/knownOptions.ts';
import {show} from '../../../quant/show.ts';
import {countPairs} from './countPairs.ts';
import {logProbabilities} from './logProbabilities.ts';
import {assertReference, otherModel, type Reference, withReference} from './reference.ts';
import type {BatchLoss, LossModel, TrainingLoss} from './trainingLoss.ts';

/** Settings of {@link preferenceLoss}, named as in LLaMA-Factory and TRL. */
export interface PreferenceLossArgs {
  /**
   * Loss of a pair: DPO's `sigmoid`, `hinge` (SLiC), `ipo` and `kto_pair` compare with a reference; `orpo` and `simpo`
   * need none. Default `sigmoid`.
   */
  type?: PreferenceLossType;
  /** Strength of the preference, above 0. Default 0.1. */
  beta?: number;
  /** Weight of the chosen answer's own cross-entropy, added to the loss; not for `kto_pair`. Default 0. */
  ftx?: number;
  /** Assumed share of pairs whose answers are swapped, 0 … below 0.5, for `sigmoid`. Default 0. */
  labelSmoothing?: number;
  /** Margin by which the chosen answer should lead, for `simpo`. Default 0.5. */
  simpoGamma?: number;
  /** Weight, 0 … 1, of the tokens of an answer beyond the length of the shorter one (LD-DPO). Default 1. */
  ldAlpha?: number;
  /**
   * The reference that answers are compared with: another model, which the caller disposes of, or the names of other
   * adapters of the trained model. Default: the model without its adapters.
   */
  reference?: Reference;
}
const PREFERENCE_OPTIONS = {
  type: true,
  beta: true,
  ftx: true,
  labelSmoothing: true,
  simpoGamma: true,
  ldAlpha: true,
  reference: true,
} satisfies OptionNames<PreferenceLossArgs>;

type Settings = Required<Omit<PreferenceLossArgs, 'reference'>>;

/** What the formulas see of B pairs, each `[B]`. `logits` is how much the policy leads over the reference. */
interface Pairs {
  chosen: tf.Tensor;
  rejected: tf.Tensor;
  /** Log-ratios to the reference; the log-probabilities themselves without one. */
  chosenRatio: tf.Tensor;
  rejectedRatio: tf.Tensor;
  logits: tf.Tensor;
}

interface PairLoss {
  /** Whether the formula compares with a reference. */
  hasReference: boolean;
  /** Whether log-probabilities are means over an answer's tokens, not sums. */
  isPerToken: boolean;
  /** Computes the losses `[B]`. */
  losses(pairs: Pairs, settings: Settings): tf.Tensor;
}

/** `−log sigmoid(x)`. The closure of `tf.logSigmoid` would keep tensors that are freed before its gradient runs. */
const minusLogSigmoid = (x: tf.Tensor) => tf.softplus(tf.neg(x));

const oddsLoss = ({chosen, rejected}: Pairs) => {
  const odds = (x: tf.Tensor) => tf.sub(x, tf.log(tf.sub(1, tf.exp(x))));
  return minusLogSigmoid(tf.sub(odds(chosen), odds(rejected)));
};

const TYPES = {
  sigmoid: {
    hasReference: true,
    isPerToken: false,
    losses: ({logits}, {beta, labelSmoothing}) => {
      const x = tf.mul(logits, beta);
      const loss = tf.mul(minusLogSigmoid(x), 1 - labelSmoothing);
      return labelSmoothing === 0 ? loss : tf.add(loss, tf.mul(tf.softplus(x), labelSmoothing));
    },
  },
  hinge: {
    hasReference: true,
    isPerToken: false,
    losses: ({logits}, {beta}) => tf.relu(tf.sub(1, tf.mul(logits, beta))),
  },
  ipo: {
    hasReference: true,
    isPerToken: true,
    losses: ({logits}, {beta}) => tf.square(tf.sub(logits, 1 / (2 * beta))),
  },
  /** Compares each answer with the mean lead of the others, as TRL 0.8 did; the mean of both answers' losses. */
  kto_pair: {
    hasReference: true,
    isPerToken: false,
    losses: ({chosenRatio, rejectedRatio}, {beta}) => {
      const lead = (ratio: tf.Tensor) => tf.relu(tf.mean(ratio));
      const loss = (margin: tf.Tensor) => tf.sub(1, tf.sigmoid(tf.mul(margin, beta)));
      const chosen = loss(tf.sub(chosenRatio, lead(rejectedRatio)));
      const rejected = loss(tf.sub(lead(chosenRatio), rejectedRatio));
      return tf.mul(tf.add(chosen, rejected), 0.5);
    },
  },
  orpo: {
    hasReference: false,
    isPerToken: true,
    losses: (pairs, {beta}) => tf.sub(tf.mul(oddsLoss(pairs), beta), pairs.chosen),
  },
  simpo: {
    hasReference: false,
    isPerToken: true,
    losses: ({chosen, rejected}, {beta, simpoGamma}) =>
      minusLogSigmoid(tf.sub(tf.mul(tf.sub(chosen, rejected), beta), simpoGamma)),
  },
} satisfies Record<string, PairLoss>;

/** Names of losses, as LLaMA-Factory's `pref_loss`. */
export type PreferenceLossType = keyof typeof TYPES;
export const PREFERENCE_LOSSES = Object.keys(TYPES) as PreferenceLossType[];

/** Numbers that describe a batch of pairs, as TRL logs them. */
const METRICS = [
  'rewards/chosen',
  'rewards/rejected',
  'rewards/accuracies',
  'rewards/margins',
  'logps/chosen',
  'logps/rejected',
] as const;

/** What `orpo` logs besides. */
const ORPO_METRICS = ['sft_loss', 'odds_ratio_loss'] as const;

/**
 * Makes the loss of preference training: `model.compile({optimizer, loss: preferenceLoss({beta: 0.1})})`, whose data are
 * pairs of a chosen and a rejected answer. Formulas of TRL's DPO and of LLaMA-Factory's ORPO and SimPO.
 *
 * @throws TfjsLoraError `INVALID_ARGUMENT` for an unknown type or option, or a number out of range
 */
export function preferenceLoss(args: PreferenceLossArgs = {}): TrainingLoss {
  assertKnownOptions('preferenceLoss', args, PREFERENCE_OPTIONS);
  const {
    type = 'sigmoid',
    beta = 0.1,
    ftx = 0,
    labelSmoothing = 0,
    simpoGamma = 0.5,
    ldAlpha = 1,
    reference,
  } = args;
  const settings: Settings = {type, beta, ftx, labelSmoothing, simpoGamma, ldAlpha};
  assertSettings(settings, reference);
  return new PreferenceLoss(settings, reference);
}

class PreferenceLoss implements TrainingLoss {
  readonly name: string;
  readonly metrics: readonly string[];
  readonly exampleKind = 'pair';
  readonly averagesBatches = true;
  readonly otherModels: readonly object[];
  private readonly kind: PairLoss;

  constructor(
    private readonly settings: Settings,
    private readonly reference: Reference | undefined,
  ) {
    const {type} = settings;
    const other = otherModel(reference);
    this.otherModels = other ? [other] : [];
    this.name = `preferenceLoss ${type}`;
    this.kind = TYPES[type];
    this.metrics = type === 'orpo' ? [...METRICS, ...ORPO_METRICS] : METRICS;
  }

  assertFits(model: LossModel): void {
    if (!model.tokenLosses) {
      throw new TfjsLoraError(
        'UNSUPPORTED',
        `compile loss ${this.name}: expected a model with tokenLosses, as every CausalLM has, got one without`,
      );
    }
    if (!this.kind.hasReference) return;
    assertReference(
      `compile loss ${this.name}`,
      model,
      this.reference,
      ', or choose orpo or simpo, which need none',
    );
  }

  count(_model: LossModel, batch: Batch): number {
    return countPairs(this.name, batch);
  }

  /** Computes the reference's log-probabilities `[2B]`, if the formula compares with them. */
  constants(model: LossModel, batch: Batch): tf.Tensor | undefined {
    if (!this.kind.hasReference) return undefined;
    return tf.tidy(() => {
      const losses = withReference(model, this.reference, (reference) => reference.tokenLosses(batch));
      return sidesOf(losses, 1, this.kind.isPerToken);
    });
  }

  compute(
    model: LossModel,
    batch: Batch,
    pass: {training?: boolean; seed?: number},
    reference?: tf.Tensor,
  ): BatchLoss {
    const {kind, settings} = this;
    const count = this.count(model, batch);
    const all = model.tokenLosses!(batch, pass);
    const policy = sidesOf(all, settings.ldAlpha, kind.isPerToken); // [2B]
    const [chosen, rejected] = tf.split(policy, 2);
    const [chosenRatio, rejectedRatio] = tf.split(reference ? tf.sub(policy, reference) : policy, 2);
    const logits = tf.sub(chosenRatio, rejectedRatio);
    let losses = kind.losses({chosen, rejected, chosenRatio, rejectedRatio, logits}, settings);
    const perToken = () => {
      if (kind.isPerToken) return chosen;
      return tf.div(chosen, tf.tensor1d(all.counts.slice(0, count)));
    };
    if (settings.ftx > 0) losses = tf.sub(losses, tf.mul(perToken(), settings.ftx));
    const rewards = tf.mul(tf.stack([chosenRatio, rejectedRatio]), settings.beta); // [2, B]
    const [chosenRewards, rejectedRewards] = tf.unstack(rewards);
    const described = [
      chosenRewards,
      rejectedRewards,
      tf.greater(chosenRewards, rejectedRewards).toFloat(),
      tf.sub(chosenRewards, rejectedRewards),
      chosen,
      rejected,
    ];
    if (settings.type === 'orpo')
      described.push(tf.neg(chosen), tf.div(tf.add(losses, chosen), settings.beta));
    return {
      loss: tf.sum(losses) as tf.Scalar,
      metrics: tf.mean(tf.stack(described), 1) as tf.Tensor1D,
    };
  }
}

/**
 * Adds up the log-probabilities of each row's labels, or averages them, `[2B]`: B chosen rows, then B rejected ones.
 *
 * @param beyond weight of labels beyond the length of the pair's shorter answer
 */
function sidesOf(all: TokenLosses, beyond: number, isPerToken: boolean): tf.Tensor {
  const {counts} = all;
  return logProbabilities(all, (row, i) => {
    const shorter = Math.min(counts[row], counts[(row + counts.length / 2) % counts.length]);
    return (i < shorter ? 1 : beyond) / (isPerToken ? counts[row] : 1);
  });
}

function assertSettings(
  {type, beta, ftx, labelSmoothing, simpoGamma, ldAlpha}: Settings,
  reference: Reference | undefined,
): void {
  const assert = (option: string, value: unknown, isRight: boolean, expected: string) => {
    if (isRight) return;
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `preferenceLoss ${option}: expected ${expected}, got ${show(value)}`,
    );
  };
  assert('type', type, PREFERENCE_LOSSES.includes(type), PREFERENCE_LOSSES.join(', '));
  assert('beta', beta, beta > 0 && Number.isFinite(beta), 'a number above 0');
  assert('ftx', ftx, ftx >= 0 && Number.isFinite(ftx), 'a number from 0');
  assert('ftx', ftx, ftx === 0 || type !== 'kto_pair', 'none with kto_pair');
  const isSmooth = labelSmoothing >= 0 && labelSmoothing < 0.5;
  assert('labelSmoothing', labelSmoothing, isSmooth, 'a number from 0 and below 0.5');
  assert('labelSmoothing', labelSmoothing, labelSmoothing === 0 || type === 'sigmoid', `none with ${type}`);
  assert('simpoGamma', simpoGamma, Number.isFinite(simpoGamma), 'a number');
  const isUsed = reference === undefined || TYPES[type].hasReference;
  assert('reference', reference, isUsed, `none with ${type}`);
  assert('ldAlpha', ldAlpha, ldAlpha >= 0 && ldAlpha <= 1, 'a number from 0 to 1');
}
