import * as tf from '@tensorflow/tfjs';
import type {Batch, TokenLosses} from '../../../models/batchLoss.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {assertKnownOptions, type OptionNames} from '../../../quant/knownOptions.ts';
import {show} from '../../../quant/show.ts';
import {logProbabilities} from './logProbabilities.ts';
import {assertReference, otherModel, type Reference, withReference} from './reference.ts';
import type {BatchLoss, LossModel, TrainingLoss} from './trainingLoss.ts';

/** Settings of {@link ktoLoss}. */
export interface KtoLossArgs {
  /** Strength of the verdicts, above 0. Default 0.1. */
  beta?: number;
  /** Weight of the losses of desirable answers, from 0. Default 1. */
  chosenWeight?: number;
  /** Weight of the losses of undesirable answers, from 0. Default 1. */
  rejectedWeight?: number;
  /** Weight of the desirable answers' own cross-entropy, added to the loss. Default 0. */
  ftx?: number;
  /**
   * The reference that answers are compared with: another model, which the caller disposes of, or the names of other
   * adapters of the trained model. Default: the model without its adapters.
   */
  reference?: Reference;
}
const KTO_OPTIONS = {
  beta: true,
  chosenWeight: true,
  rejectedWeight: true,
  ftx: true,
  reference: true,
} satisfies OptionNames<KtoLossArgs>;

type Settings = Required<Omit<KtoLossArgs, 'reference'>>;

/**
 * Makes the loss of KTO: `model.compile({optimizer, loss: ktoLoss({beta: 0.1})})`, whose data are single answers with a
 * verdict, records of `{prompt, completion, label}`. Formulas of LLaMA-Factory's stage `kto` and of TRL: with the
 * log-ratio r of an answer to the reference, and its mean over mismatched answers `KL`, at least 0, the loss is
 * `1 − sigmoid(beta · (r − KL))` of a desirable answer, and `1 − sigmoid(beta · (KL − r))` of another one.
 *
 * @throws TfjsLoraError `INVALID_ARGUMENT` for an unknown option, or a number out of range
 */
export function ktoLoss(args: KtoLossArgs = {}): TrainingLoss {
  assertKnownOptions('ktoLoss', args, KTO_OPTIONS);
  const {beta = 0.1, chosenWeight = 1, rejectedWeight = 1, ftx = 0, reference} = args;
  const settings = {beta, chosenWeight, rejectedWeight, ftx};
  for (const [name, value] of Object.entries(settings)) {
    if (Number.isFinite(value) && (name === 'beta' ? value > 0 : value >= 0)) continue;
    const expected = name === 'beta' ? 'a number above 0' : 'a number from 0';
    throw new TfjsLoraError('INVALID_ARGUMENT', `ktoLoss ${name}: expected ${expected}, got ${show(value)}`);
  }
  return new KtoLoss(settings, reference);
}

const SIDES = ['chosen', 'rejected'] as const;

class KtoLoss implements TrainingLoss {
  readonly name = 'ktoLoss';
  readonly metrics = [
    'rewards/chosen',
    'rewards/rejected',
    'rewards/margins',
    'logps/chosen',
    'logps/rejected',
    'kl',
  ];
  readonly measures = [
    ...SIDES,
    ...SIDES.map((side) => `rewards/${side}`),
    ...SIDES.map((side) => `logps/${side}`),
    'kl',
  ];
  readonly exampleKind = 'verdict';
  readonly averagesBatches = true;
  readonly otherModels: readonly object[];

  constructor(
    private readonly settings: Settings,
    private readonly reference: Reference | undefined,
  ) {
    const other = otherModel(reference);
    this.otherModels = other ? [other] : [];
  }

  assertFits(model: LossModel): void {
    if (!model.tokenLosses) {
      throw new TfjsLoraError(
        'UNSUPPORTED',
        'compile loss ktoLoss: expected a model with tokenLosses, as every CausalLM has, got one without',
      );
    }
    assertReference('compile loss ktoLoss', model, this.reference);
  }

  count(_model: LossModel, {inputIds, desirable}: Batch): number {
    const rows = inputIds instanceof tf.Tensor ? inputIds.shape[0] : inputIds.length;
    if (desirable !== undefined && desirable.length > 0 && rows === 2 * desirable.length)
      return desirable.length;
    throw new TfjsLoraError(
      'SHAPE_MISMATCH',
      'ktoLoss batch desirable: expected a verdict on each answer, whose rows come before as many mismatched ones, got ' +
        `${desirable?.length ?? 'none'} for ${rows} rows`,
    );
  }

  /** Averages over the answers of each kind, of which a batch may have none. */
  summarize(sums: Record<string, number>, batches: number): Record<string, number> {
    const numbers: Record<string, number> = {};
    for (const side of SIDES) {
      if (sums[side] === 0) continue;
      for (const name of ['rewards', 'logps'])
        numbers[`${name}/${side}`] = sums[`${name}/${side}`] / sums[side];
    }
    const {['rewards/chosen']: chosen, ['rewards/rejected']: rejected} = numbers;
    if (chosen !== undefined && rejected !== undefined) numbers['rewards/margins'] = chosen - rejected;
    return {...numbers, kl: sums.kl / batches};
  }

  /** Computes the reference's log-probabilities of the B answers, and `KL`, which no gradient passes: `[B + 1]`. */
  constants(model: LossModel, batch: Batch): tf.Tensor {
    return tf.tidy(() => {
      const count = this.count(model, batch);
      const reference = withReference(model, this.reference, (other) =>
        logProbabilities(other.tokenLosses(batch)),
      );
      const [ofAnswers, ofMismatched] = tf.split(reference, 2);
      const policy = logProbabilities(model.tokenLosses!(rowsOfBatch(batch, count, 2 * count)));
      const kl = tf.relu(tf.mean(tf.sub(policy, ofMismatched)));
      return tf.concat([ofAnswers, kl.reshape([1])]);
    });
  }

  compute(
    model: LossModel,
    batch: Batch,
    pass: {training?: boolean; seed?: number},
    constants?: tf.Tensor,
  ): BatchLoss {
    const {beta, chosenWeight, rejectedWeight, ftx} = this.settings;
    const count = this.count(model, batch);
    const desirable = batch.desirable as boolean[];
    const all: TokenLosses = model.tokenLosses!(rowsOfBatch(batch, 0, count), pass);
    const policy = logProbabilities(all); // [B]
    const [reference, kl] = tf.split(constants as tf.Tensor1D, [count, 1]);
    const ratios = tf.sub(policy, reference);
    const verdicts = tf.tensor1d(desirable.map((isDesirable) => (isDesirable ? beta : -beta)));
    const weights = tf.tensor1d(
      desirable.map((isDesirable) => (isDesirable ? chosenWeight : rejectedWeight)),
    );
    let losses = tf.mul(weights, tf.sub(1, tf.sigmoid(tf.mul(verdicts, tf.sub(ratios, kl)))));
    const chosen = desirable.filter(Boolean).length;
    if (ftx > 0 && chosen > 0) {
      // LLaMA-Factory adds the mean over the desirable answers times the share that they are short of all.
      const share = (ftx * count * count) / (chosen * chosen);
      const perToken = desirable.map((isDesirable, row) => (isDesirable ? share / all.counts[row] : 0));
      losses = tf.sub(losses, tf.mul(policy, tf.tensor1d(perToken)));
    }
    const sides = tf.tensor2d([desirable.map(Number), desirable.map((isDesirable) => Number(!isDesirable))]); // [2, B]
    const sumsOf = (values: tf.Tensor) => tf.sum(tf.mul(sides, values), 1); // [2]
    return {
      loss: tf.sum(losses) as tf.Scalar,
      metrics: tf.concat([tf.sum(sides, 1), sumsOf(tf.mul(ratios, beta)), sumsOf(policy), kl]) as tf.Tensor1D,
    };
  }
}

/** Returns some rows of a batch of rows. */
function rowsOfBatch(batch: Batch, from: number, to: number): Batch {
  const part = <T>(rows: T): T => (Array.isArray(rows) ? (rows.slice(from, to) as T) : rows);
  const {inputIds, labels, attentionMask, positionIds} = batch;
  return {
    inputIds: part(inputIds),
    labels: part(labels),
    ...(attentionMask && {attentionMask: part(attentionMask)}),
    ...(positionIds && {positionIds: part(positionIds)}),
  };
}
