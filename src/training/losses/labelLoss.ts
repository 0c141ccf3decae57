import * as tf from '@tensorflow/tfjs';
import {AdaptedLayer} from '../../../layers/adaptedLayer.ts';
import {tokenLosses} from '../../../layers/ops/crossEntropy.ts';
import {customGradient} from '../../../layers/ops/customGradient.ts';
import type {Batch, HeadOwner, LabelFormula, TokenLossesOptions} from '../../../models/batchLoss.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {assertKnownOptions, type OptionNames} from '../../../quant/knownOptions.ts';
import {show} from '../../../quant/show.ts';
import {adaptersOf, assertReference, otherModel, type Reference, withReference} from './reference.ts';
import {stopGradient} from './stopGradient.ts';
import type {BatchLoss, LossModel, TrainingLoss} from './trainingLoss.ts';

/** Settings of {@link labelLoss}. */
export interface LabelLossArgs {
  /**
   * What replaces the cross-entropy of a label. `smoothed`: a share of the target is spread over the vocabulary.
   * `dft` (Dynamic Fine-Tuning): weighted by the label's probability. `eaft`: weighted by the entropy of the 20 most
   * likely tokens. `asft`: `dft`, and the divergence from the reference.
   */
  type: LabelLossType;
  /**
   * `smoothed`: the share, 0 … 1, default 0.1. `eaft`: the exponent of the weight, default 1. `asft`: the weight of the
   * divergence, default 0.1. `dft` has none.
   */
  alpha?: number;
  /**
   * `asft`: the reference that the model is compared with: adapters by name, or another model with the same tokens,
   * which the caller disposes of. Default: the model without its adapters.
   */
  reference?: Reference;
}
const LABEL_OPTIONS = {type: true, alpha: true, reference: true} satisfies OptionNames<LabelLossArgs>;

/** Number of tokens whose entropy `eaft` takes, and the entropy that it takes for 1. */
const EAFT = {tokens: 20, scale: 3} as const;

interface LabelKind {
  /** Default of `alpha`; absent if there is no such setting. */
  alpha?: number;
  highest?: number;
  /** Whether the formula compares with a reference. */
  hasReference?: boolean;
  formula(alpha: number): LabelFormula;
}

const dft: LabelFormula = (logits, labels) => weightedByProbability(tokenLosses(logits, labels));

const TYPES = {
  smoothed: {
    alpha: 0.1,
    highest: 1,
    formula: (share) => (logits, labels) => {
      const uniform = tf.sub(tf.logSumExp(logits, 1), tf.mean(logits, 1)); // mean over the vocabulary of −log p
      return tf.add(tf.mul(tokenLosses(logits, labels), 1 - share), tf.mul(uniform, share));
    },
  },
  dft: {formula: () => dft},
  eaft: {
    alpha: 1,
    formula: (exponent) => (logits, labels) =>
      tf.mul(
        tokenLosses(logits, labels),
        constantOf(logits, (x) => tf.pow(entropyShare(x), exponent)),
      ),
  },
  asft: {
    alpha: 0.1,
    hasReference: true,
    formula: (weight) => (logits, labels, reference) => {
      const logOfReference = tf.logSoftmax(reference!);
      const apart = tf.mul(tf.exp(logOfReference), tf.sub(logOfReference, logits));
      const divergence = tf.add(tf.sum(apart, 1), tf.logSumExp(logits, 1)); // KL(reference ‖ policy)
      return tf.add(dft(logits, labels), tf.mul(divergence, weight));
    },
  },
} satisfies Record<string, LabelKind>;

/** Names of losses: `smoothed`, and LLaMA-Factory's `use_dft_loss`, `use_eaft_loss` and `use_asft_loss`. */
export type LabelLossType = keyof typeof TYPES;

/**
 * Makes a loss of the labels other than the cross-entropy: `model.compile({loss: labelLoss({type: 'dft'})})`. All
 * labels of an accumulation window have the same weight. The formulas are those of transformers and LLaMA-Factory.
 * Logits are computed for only some of the labels at a time.
 *
 * @throws TfjsLoraError `INVALID_ARGUMENT` for an unknown type or option, or a number out of range
 */
export function labelLoss(args: LabelLossArgs): TrainingLoss {
  assertKnownOptions('labelLoss', args, LABEL_OPTIONS, 'required');
  const {type} = args;
  if (!Object.hasOwn(TYPES, type)) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `labelLoss type: expected ${Object.keys(TYPES).join(', ')}, got ${show(type)}`,
    );
  }
  const {alpha: initial, highest = Number.MAX_VALUE}: LabelKind = TYPES[type];
  const {alpha = initial ?? 0} = args;
  const isRight = alpha >= 0 && alpha <= highest && (initial !== undefined || args.alpha === undefined);
  if (!isRight) {
    const expected =
      initial === undefined ? `none with ${type}` : `a number from 0${highest === 1 ? ' to 1' : ''}`;
    throw new TfjsLoraError('INVALID_ARGUMENT', `labelLoss alpha: expected ${expected}, got ${show(alpha)}`);
  }
  const {reference} = args;
  if (reference !== undefined && type !== 'asft') {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `labelLoss reference: expected none with ${type}, which compares with none, got ` +
        (otherModel(reference) ? 'a model' : show(reference)),
    );
  }
  return new LabelLoss(type, alpha, reference);
}

class LabelLoss implements TrainingLoss {
  readonly name: string;
  readonly metrics = [];
  readonly exampleKind = 'answer';
  readonly averagesBatches = false;
  readonly otherModels: readonly object[];
  private readonly kind: LabelKind;

  constructor(
    private readonly type: LabelLossType,
    private readonly alpha: number,
    private readonly reference: Reference | undefined,
  ) {
    const other = otherModel(reference);
    this.otherModels = other ? [other] : [];
    this.name = `labelLoss ${type}`;
    this.kind = TYPES[type];
  }

  assertFits(model: LossModel): void {
    if (!model.tokenLosses || !model.labelStates) {
      throw new TfjsLoraError(
        'UNSUPPORTED',
        `compile loss ${this.name}: expected a model with tokenLosses, as every CausalLM has, got one without`,
      );
    }
    if (!this.kind.hasReference) return;
    assertReference(`compile loss ${this.name}`, model, this.reference);
    const other = otherModel(this.reference);
    if (!other) this.assertSharedHead(model);
    else if (!other.labelStates || !other.lm_head)
      throw new TfjsLoraError(
        'UNSUPPORTED',
        `compile loss ${this.name} reference: expected a model with labelStates and lm_head, as every CausalLM has, got one without`,
      );
  }

  /** The model's own head makes the logits of a reference in the same model. */
  private assertSharedHead({lm_head, activeAdapters = []}: LossModel): void {
    if (!(lm_head instanceof AdaptedLayer)) return;
    const names = [...activeAdapters, ...adaptersOf(this.reference)];
    const other = names.find((name) => lm_head.adapters.has(name));
    if (other === undefined) return;
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `compile loss ${this.name} reference: expected adapters that leave lm_head as it is, which the reference shares, got ` +
        `${show(other)}. Leave lm_head out of targetModules, or pass another model as the reference.`,
    );
  }

  count(model: LossModel, batch: Batch): number {
    return model.targetCount(batch);
  }

  /** Computes the reference's hidden states, from which its logits follow part by part. */
  constants(model: LossModel, batch: Batch): tf.Tensor | undefined {
    if (!this.kind.hasReference) return undefined;
    return withReference(model, this.reference, (reference) => reference.labelStates!(batch));
  }

  compute(
    model: LossModel,
    batch: Batch,
    pass: {training?: boolean; seed?: number},
    reference?: tf.Tensor,
  ): BatchLoss {
    const options: TokenLossesOptions = {
      ...pass,
      reference: reference as tf.Tensor2D | undefined,
      referenceModel: otherModel(this.reference) as HeadOwner | undefined,
    };
    // Kernels compute the plain losses, which are all that dft needs.
    if (this.type === 'dft')
      return {loss: tf.sum(weightedByProbability(model.tokenLosses!(batch, options).losses)) as tf.Scalar};
    const formula = this.kind.formula(this.alpha);
    return {loss: tf.sum(model.tokenLosses!(batch, {...options, formula}).losses) as tf.Scalar};
  }
}

/** Weighs losses `−log p` by `p`, as a constant. */
function weightedByProbability(losses: tf.Tensor1D): tf.Tensor1D {
  return tf.mul(losses, tf.exp(tf.neg(stopGradient(losses))));
}

/** Returns the entropy of the most likely tokens among themselves, `[n]`, as a share of a large one. */
function entropyShare(logits: tf.Tensor2D): tf.Tensor {
  const {values} = tf.topk(logits, Math.min(EAFT.tokens, logits.shape[1]));
  const logs = tf.logSoftmax(values);
  return tf.div(tf.neg(tf.sum(tf.mul(tf.exp(logs), logs), 1)), EAFT.scale);
}

/** Computes a function of a tensor, through which no gradient flows. */
function constantOf(x: tf.Tensor2D, fn: (x: tf.Tensor2D) => tf.Tensor): tf.Tensor {
  return customGradient(
    [x],
    () => ({value: fn(x)}),
    () => [tf.zeros(x.shape)],
  );
}
