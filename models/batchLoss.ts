import * as tf from '@tensorflow/tfjs';
import {AdaptedLayer} from '../layers/adaptedLayer.ts';
import {crossEntropy, tokenLosses as lossesOfLogits} from '../layers/ops/crossEntropy.ts';
import {gradientCheckpoint} from '../layers/ops/gradientCheckpoint.ts';
import {linearCrossEntropy, linearTokenLosses} from '../layers/ops/linearCrossEntropy.ts';
import {readAtOnce} from '../layers/ops/readAtOnce.ts';
import {reshaped} from '../layers/ops/reshaped.ts';
import {softCap} from '../layers/ops/softCap.ts';
import {takeRows} from '../layers/ops/takeRows.ts';
import {uploadEarly} from '../layers/ops/uploadEarly.ts';
import type {RotaryTables} from '../layers/rotaryEmbedding.ts';
import {TiedHead} from '../layers/tiedHead.ts';
import {TransposedDense} from '../layers/transposedDense.ts';
import type {ValueHead} from '../layers/valueHead.ts';
import {TfjsLoraError} from '../quant/errors.ts';
import {show} from '../quant/show.ts';
import {assertBatch} from './assertBatch.ts';
import {assertInputIds} from './assertInputIds.ts';
import type {Batch} from './batch.ts';
import {dropoutSeed} from './dropoutSeed.ts';
import {IGNORE_INDEX} from './ignoreIndex.ts';
import type {HostValues, LossPass} from './lossPass.ts';

export type {Batch} from './batch.ts';
export {IGNORE_INDEX};

/** Number of logits in memory at a time when the head itself trains (64 MiB of float32). */
const CHUNK_ELEMENTS = 1 << 24;

/** If at least this share of all positions predicts a label, the loss ignores the others instead of copying those. */
const DENSE_SHARE = 63 / 64;

/** The part of a model that the loss needs. */
export interface LossModel {
  readonly config: {readonly vocabSize: number; readonly maxPositionEmbeddings: number};
  readonly lm_head: tf.layers.Layer;
  /** Bound of the logits, see {@link softCap}. Default: they have none. */
  readonly logitBound?: number;
  readonly valueHead?: ValueHead;
  /** Whether nobody but the caller of {@link forward} can hold its result, which a loss may then overwrite. Default false. */
  readonly handsOverStates?: boolean;
  /** Computes hidden states `[B, T, C]`. */
  forward(
    inputIds: tf.Tensor2D,
    options: {
      attentionMask?: tf.Tensor2D;
      positionIds?: number[][];
      rotary?: RotaryTables;
      training?: boolean;
      seed?: number;
    },
  ): tf.Tensor3D;
}

/** Losses of the labels that count in a batch, in order. */
export interface TokenLosses {
  /** `−log p(label)` of each, `[N]`. */
  losses: tf.Tensor1D;
  /** Number of labels that count in each row; they add up to N. */
  counts: number[];
  /** The value head's output at the positions that predict these labels, `[N]`, if requested. */
  values?: tf.Tensor1D;
}

interface Pass {
  training?: boolean;
  seed?: number;
}

/** Options of {@link tokenLosses}. */
export interface TokenLossesOptions extends Pass {
  /** Whether to run the value head in the same pass. Default false. */
  values?: boolean;
  /** Divisor of the logits, above 0, for the probabilities of tokens that were sampled at a temperature. Default 1. */
  temperature?: number;
  /** Loss of each label instead of the cross-entropy. */
  formula?: LabelFormula;
  /** Hidden states `[N, C]` of {@link labelStates}, which become the formula's reference logits. */
  reference?: tf.Tensor2D;
  /** The model that {@link reference} comes from, whose head makes logits of it. Default: this one. */
  referenceModel?: HeadOwner;
}

/** The part of a model that makes logits of hidden states. */
export type HeadOwner = Pick<LossModel, 'lm_head' | 'logitBound'>;

/**
 * Computes the losses `[n]` of some labels from their logits; differentiable, and given a part of the labels at a time.
 *
 * @param logits `[n, vocab]`
 * @param labels `[n]`
 * @param reference logits of the reference, `[n, vocab]`, if one was given
 */
export type LabelFormula = (logits: tf.Tensor2D, labels: tf.Tensor1D, reference?: tf.Tensor2D) => tf.Tensor1D;

/** Sums the cross-entropy over a batch's targets; see `CausalLM.lossSum`. */
export function lossSum(model: LossModel, batch: Batch, options: Pass): tf.Scalar {
  return lossesOf(model, batch, options, 'sum').losses as tf.Scalar;
}

/** Computes the loss of each target; see `CausalLM.tokenLosses`. */
export function tokenLosses(model: LossModel, batch: Batch, options: TokenLossesOptions): TokenLosses {
  const {values, ...pass} = options;
  const {temperature = 1} = pass;
  if (!(temperature > 0)) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `tokenLosses temperature: expected a number above 0, got ${show(temperature)}`,
    );
  }
  const head = values ? valueHeadOf(model) : undefined;
  const computed = lossesOf(model, batch, pass, 'each', head) as {losses: tf.Tensor1D; values?: tf.Tensor1D};
  return {...computed, counts: toRows(batch, 'labels').map((row) => findTargets([row]).targets.length)};
}

/** Computes the hidden states `[N, C]` that predict the labels that count; see `CausalLM.labelStates`. */
export function labelStates(model: LossModel, batch: Batch): tf.Tensor2D {
  const {inputIds, places} = checked(model, batch, 'each');
  return tf.tidy(() => {
    const mask = batch.attentionMask && tf.tensor2d(toRows(batch, 'attentionMask'), undefined, 'int32');
    const positionIds = batch.positionIds && toRows(batch, 'positionIds');
    const ids = tf.tensor2d(inputIds, undefined, 'int32');
    const hidden = model.forward(ids, {attentionMask: mask, positionIds}); // [B, T, C]
    return tf.gather(hidden.reshape([-1, hidden.shape[2]]), tf.tensor1d(places!, 'int32')) as tf.Tensor2D;
  });
}

/** @throws TfjsLoraError `UNSUPPORTED` for a model without a value head */
export function valueHeadOf({valueHead}: Pick<LossModel, 'valueHead'>): ValueHead {
  if (valueHead) return valueHead;
  throw new TfjsLoraError(
    'UNSUPPORTED',
    'values: expected a model with a value head, got none. Call addValueHead() or loadValueHead(folder) first.',
  );
}

/** Settings of a loss other than the cross-entropy. */
type LossShape = Pick<TokenLossesOptions, 'temperature' | 'formula' | 'reference' | 'referenceModel'>;

/** The losses of targets, each `[N]`, or their sum. */
type Which = 'sum' | 'each';

/** What a pass computes at the positions that predict labels. A type, because an interface is no tensor container. */
type Computed = {losses: tf.Tensor; values?: tf.Tensor};

function lossesOf(
  model: LossModel,
  batch: Batch,
  {temperature, formula, reference, referenceModel, ...options}: Omit<TokenLossesOptions, 'values'>,
  which: Which,
  head?: ValueHead,
): Computed {
  const {inputIds, places, labels} = checked(model, batch, which);
  const pass = {...options, seed: dropoutSeed(options.seed)};
  return tf.tidy(() => {
    const late = {
      labels: tf.tensor1d(labels, 'int32'),
      ...(places && {places: tf.tensor1d(places, 'int32')}),
    };
    uploadEarly(...Object.values(late));
    const tensors = {
      inputIds: tf.tensor2d(inputIds, undefined, 'int32'),
      ...late,
      attentionMask: batch.attentionMask && tf.tensor2d(toRows(batch, 'attentionMask'), undefined, 'int32'),
    };
    const positionIds = batch.positionIds && toRows(batch, 'positionIds');
    const shape = {temperature, formula, reference, referenceModel};
    return lossOf(model, tensors, {positionIds, ...pass}, which, head, shape);
  });
}

/**
 * Returns the pass of {@link lossSum} in training, without dropout and with the default positions, for recording.
 *
 * @param state describes everything in the model that the pass depends on
 */
export function lossPass(
  model: LossModel & {readonly rotary: {tables(length: number): RotaryTables}},
  batch: Batch,
  state: string,
): LossPass {
  const {inputIds, places, labels} = checked(model, batch, 'sum');
  const [rows, length] = [inputIds.length, inputIds[0].length];
  const ints = (shape: number[], parts: number[][]): HostValues => {
    const values = new Int32Array(tf.util.sizeFromShape(shape));
    for (const [i, part] of parts.entries()) values.set(part, i * part.length); // `flat` would take a millisecond
    return {shape, dtype: 'int32', values};
  };
  const mask = batch.attentionMask && toRows(batch, 'attentionMask');
  return {
    key: `${rows} × ${length}, ${labels.length} labels, ${places !== undefined} ${mask !== undefined} ${state}`,
    inputs: {
      inputIds: ints([rows, length], inputIds),
      labels: ints([labels.length], [labels]),
      ...(places && {places: ints([places.length], [places])}),
      ...(mask && {attentionMask: ints([rows, length], mask)}),
    },
    constants: () => ({...model.rotary.tables(length)}),
    loss: ({cos, sin, ...tensors}) => {
      const rotary = {cos, sin} as RotaryTables;
      return tf.tidy(
        () =>
          lossOf(model, tensors as unknown as LossTensors, {rotary, training: true}, 'sum')
            .losses as tf.Scalar,
      );
    },
  };
}

/** The tensors of a batch: its tokens, labels, and the places that predict them in the flattened `[B·T]`, by default all. */
interface LossTensors {
  inputIds: tf.Tensor2D;
  places?: tf.Tensor1D;
  labels: tf.Tensor1D;
  attentionMask?: tf.Tensor2D;
}

function lossOf(
  model: LossModel,
  {inputIds, places, labels, attentionMask}: LossTensors,
  options: Omit<Parameters<LossModel['forward']>[1], 'attentionMask'>,
  which: Which,
  head?: ValueHead,
  shape: LossShape = {},
): Computed {
  const hidden = model.forward(inputIds, {attentionMask, ...options}); // [B, T, C]
  const flat = reshaped(hidden, [-1, hidden.shape[2]]) as tf.Tensor2D; // [B·T, C]
  const counted = places ? takeRows(flat, places) : flat; // [N, C]
  const isSpent = !head && (places !== undefined || model.handsOverStates === true);
  if (isSpent && !places) hidden.dispose(); // then only `counted` has the buffer
  const losses = headLoss(model, counted, labels, options, which, shape, isSpent);
  return head ? {losses, values: scoresOf(head, counted, options)} : {losses};
}

/** Computes the value head's output `[N]` for hidden states `[N, C]`. */
export function scoresOf(head: ValueHead, hidden: tf.Tensor2D, {training, seed}: Pass): tf.Tensor1D {
  return (head.apply(hidden, {training, seed}) as tf.Tensor).flatten();
}

/** Returns a batch's rows, places and labels. For a sum, the places may be all, with labels that do not count. */
function checked(model: LossModel, batch: Batch, which: Which) {
  assertBatch('lossSum', batch);
  const inputIds = toRows(batch, 'inputIds');
  assertShapes(inputIds, batch);
  assertInputIds(inputIds, model.config);
  const {positions, targets} = findTargets(toRows(batch, 'labels'));
  assertLabels(targets, model.config.vocabSize);
  const count = inputIds.length * inputIds[0].length;
  const isDense = which === 'sum' && positions.length >= DENSE_SHARE * count;
  return isDense
    ? {inputIds, labels: spread(targets, positions, count)}
    : {inputIds, places: positions, labels: targets};
}

/** Returns the number of labels that count in a batch. A row's first label never does, because nothing predicts it. */
export function targetCount(batch: Batch): number {
  return findTargets(toRows(batch, 'labels')).targets.length;
}

/**
 * Computes the losses of targets, `each` `[N]`, or their `sum`.
 *
 * @param isSpent whether the hidden states are not needed again
 */
function headLoss(
  owner: HeadOwner,
  hidden: tf.Tensor2D,
  targets: tf.Tensor1D,
  pass: Pass,
  which: Which,
  {temperature = 1, formula, reference, referenceModel = owner}: LossShape,
  isSpent = false,
): tf.Tensor {
  const head = headOf(owner);
  const divided = <T extends tf.Tensor>(x: T): T => (temperature === 1 ? x : tf.div(x, temperature));
  const frozen = head instanceof TransposedDense && !head.bias && !head.weight.trainable;
  if (frozen && owner.logitBound === undefined && !formula)
    return (which === 'sum' ? linearCrossEntropy : linearTokenLosses)(
      divided(hidden), // the head is linear
      head.weight.matrix(),
      targets,
      undefined,
      undefined,
      isSpent,
    );
  const variables = trainedWeightsOf(head).map((weight) => weight.read() as tf.Variable);
  const [rows] = hidden.shape;
  const vocabSize = vocabularyOf(owner);
  const chunkRows = Math.max(1, Math.floor(CHUNK_ELEMENTS / vocabSize));
  if (reference && referenceModel === owner && variables.length > 0) {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      'tokenLosses reference: expected a frozen lm_head, which the reference shares, got one that trains. ' +
        'Leave lm_head out of targetModules, or pass another model as the reference.',
    );
  }
  if (reference && vocabularyOf(referenceModel) !== vocabSize) {
    throw new TfjsLoraError(
      'VOCABULARY_MISMATCH',
      `tokenLosses reference: expected ${vocabSize} logits, as the model has, got ${vocabularyOf(referenceModel)}`,
    );
  }
  const lossOf = formula ?? (which === 'sum' ? crossEntropy : lossesOfLogits);
  const losses: tf.Tensor[] = [];
  for (let row = 0; row < rows; row += chunkRows) {
    const count = Math.min(chunkRows, rows - row);
    const run = (x: tf.Tensor, labels: tf.Tensor, ...others: tf.Tensor[]): tf.Tensor => {
      const logits = divided(logitsOf(x, owner, pass));
      const referenceLogits = others.map((states) => divided(logitsOf(states, referenceModel)));
      return (lossOf as LabelFormula)(logits, labels as tf.Tensor1D, ...referenceLogits);
    };
    const part = (x: tf.Tensor2D) => x.slice([row, 0], [count, -1]);
    const constants = [targets.slice([row], [count]), ...(reference ? [part(reference)] : [])];
    losses.push(
      gradientCheckpoint(run as (...all: tf.Tensor[]) => tf.Tensor, [part(hidden)], {variables, constants}),
    );
  }
  if (losses.length === 1) return losses[0];
  return which === 'sum' ? tf.addN(losses) : tf.concat(losses);
}

const headOf = ({lm_head}: HeadOwner) => (lm_head instanceof AdaptedLayer ? lm_head.current : lm_head);

const vocabularyOf = (owner: HeadOwner) => headOf(owner).computeOutputShape([null, null]).at(-1) as number;

function logitsOf(x: tf.Tensor, owner: HeadOwner, pass: Pass = {}): tf.Tensor2D {
  const logits = headOf(owner).apply(x, pass) as tf.Tensor2D;
  return owner.logitBound === undefined ? logits : (softCap(logits, owner.logitBound) as tf.Tensor2D);
}

/** Returns the weights that a head trains, also those that it shares with the embedding. */
function trainedWeightsOf(head: tf.layers.Layer): tf.LayerVariable[] {
  const shared =
    head instanceof TiedHead ? [head.weight] : head instanceof AdaptedLayer ? head.usedParameters : [];
  return [...new Set([...head.trainableWeights, ...shared.filter(({trainable}) => trainable)])];
}

/** Returns the targets, and the positions in the flattened `[B·T]` that predict them. */
function findTargets(labels: number[][]): {positions: number[]; targets: number[]} {
  const positions: number[] = [];
  const targets: number[] = [];
  for (const [row, rowLabels] of labels.entries()) {
    for (let t = 1; t < rowLabels.length; t++) {
      if (rowLabels[t] === IGNORE_INDEX) continue;
      positions.push(row * rowLabels.length + t - 1);
      targets.push(rowLabels[t]);
    }
  }
  return {positions, targets};
}

/** Returns labels for all `count` positions: the targets at theirs, and {@link IGNORE_INDEX} elsewhere. */
function spread(targets: number[], positions: number[], count: number): number[] {
  const labels = new Array<number>(count).fill(IGNORE_INDEX);
  for (let i = 0; i < positions.length; i++) labels[positions[i]] = targets[i]; // long, and on the host's path
  return labels;
}

function assertLabels(targets: number[], vocabSize: number): void {
  for (const target of targets) {
    if (Number.isInteger(target) && target >= 0 && target < vocabSize) continue;
    throw new TfjsLoraError(
      'VOCABULARY_MISMATCH',
      `batch labels: expected ${IGNORE_INDEX} or an id from 0 to ${vocabSize - 1}, got ${target}`,
    );
  }
}

/** Reads one field of a batch as rows. */
export function toRows(
  batch: Batch,
  key: 'inputIds' | 'labels' | 'attentionMask' | 'positionIds',
): number[][] {
  const advice =
    'Pass rows, or use trainOnBatch, computeGradients or evaluateDataset, which read asynchronously.';
  return readAtOnce(`batch ${key}`, batch[key]!, advice);
}

function assertShapes(inputIds: number[][], batch: Batch): void {
  const length = inputIds[0]?.length ?? 0;
  if (inputIds.length === 0 || length === 0) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      'batch inputIds: expected at least one token, got an empty batch',
    );
  }
  for (const key of ['inputIds', 'labels', 'attentionMask', 'positionIds'] as const) {
    const value = batch[key];
    if (value === undefined && key !== 'labels') continue;
    const shape =
      value === undefined ? 'none' : value instanceof tf.Tensor ? `[${value.shape}]` : shapeOf(value);
    if (shape === `[${inputIds.length},${length}]`) continue;
    throw new TfjsLoraError(
      'SHAPE_MISMATCH',
      `batch ${key}: expected [${inputIds.length},${length}] (the shape of inputIds), got ${shape}. ` +
        'Pad rows to one length.',
    );
  }
  if (targetCount(batch) > 0) return;
  throw new TfjsLoraError(
    'INVALID_ARGUMENT',
    `batch labels: expected at least one label that counts, got only ${IGNORE_INDEX} (or one token per row, which ` +
      'leaves nothing to predict)',
  );
}

function shapeOf(rows: number[][]): string {
  const lengths = [...new Set(rows.map((row) => row.length))];
  return `[${rows.length},${lengths.join(' or ')}]`;
}
