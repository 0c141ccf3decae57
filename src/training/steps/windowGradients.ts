import * as tf from '@tensorflow/tfjs';
import {freeSpent} from '../../../layers/ops/freeSpent.ts';
import {globalNorm} from '../../../layers/ops/globalNorm.ts';
import {settleGradients} from '../../../layers/ops/settleGradients.ts';
import {uploadEarly} from '../../../layers/ops/uploadEarly.ts';
import type {Batch} from '../../../models/batchLoss.ts';
import {nextTask} from '../../../models/nextTask.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {toRows} from '../../data/batches/batches.ts';
import {ranks} from '../cluster/ranks.ts';
import {
  type BatchLoss,
  CROSS_ENTROPY,
  type Measured,
  metricsOf,
  type TrainingLoss,
} from '../losses/trainingLoss.ts';
import type {UnreadNumbers} from '../optimizers/namedStateOptimizer.ts';
import type {BatchGradients, PassRecorder} from './passRecorder.ts';
import type {TrainableModel} from './trainableModel.ts';

/** Loss and gradients of one accumulation window. */
export interface WindowGradients {
  /** Mean loss over the labels that count in the whole window, or over its pairs. */
  loss: number;
  /** Number of labels that counted, or of pairs. */
  tokens: number;
  /** What the loss measured in the window's batches, if it measures anything, and the numbers made of that. */
  measured?: Measured;
  metrics?: Record<string, number>;
  /** Global L2 norm of the gradients. */
  gradNorm: number;
  /** Gradients by the weight's key in a PEFT file. The caller disposes them. */
  gradients: tf.NamedTensorMap;
  /** Trained variables, by the same keys. */
  variables: Map<string, tf.Variable>;
  /** Bytes in tensors when the last batch's backward pass began: weights, optimizer state, and what that pass needs. */
  memoryBytes: number;
}

/** The part of a window's results that is available before the host has read anything. */
export interface UnreadGradients extends Pick<WindowGradients, 'gradients' | 'variables'>, UnreadNumbers {}

/** Distance between windows' seeds, so that each micro-batch has its own seed for dropout. */
const SEEDS_PER_WINDOW = 1009;

/**
 * Computes loss and gradients of a batch, or of several micro-batches as one window: the sum of the losses divided by
 * the number of all labels, never a mean of means. Gradients are added up micro-batch by micro-batch, so memory does
 * not grow with the window. With several ranks, each computes its share of the window, and all get the sums.
 *
 * @param seed seed for dropout. Default 0
 * @param beforeComputing called first, with the weights that train and the pass over the first batch, which returns
 *   its gradients for the callback to dispose
 * @param beforeReading called once everything is computed and before the host waits for it, so that more work can be
 *   queued
 * @param recorder records the pass, and replays it, if the window is one batch. The next recorded pass writes over the
 *   gradients
 * @throws TfjsLoraError `INVALID_ARGUMENT` when the window is empty or no weight trains, `UNSUPPORTED` while adapters
 *   are merged, and what the model throws
 */
export async function windowGradients(
  model: TrainableModel,
  batches: Batch | Batch[],
  seed = 0,
  beforeComputing?: (variables: Map<string, tf.Variable>, pass: () => tf.NamedTensorMap) => Promise<void>,
  beforeReading?: (computed: UnreadGradients) => void,
  loss: TrainingLoss = CROSS_ENTROPY,
  recorder?: PassRecorder,
): Promise<WindowGradients> {
  const window = await Promise.all([batches].flat().map((batch) => toRows(batch)));
  const variables = model.trainableParameters();
  assertTrainable(model, window, variables);
  loss.assertFits(model);
  const counts = window.map((batch) => loss.count(model, batch));
  const tokens = counts.reduce((sum, count) => sum + count, 0);
  const all = [...window.keys()];
  const own = ranks().share(all);
  let gradients: tf.NamedTensorMap = {};
  let losses: tf.Scalar[] = [];
  const metrics: tf.Tensor1D[] = [];
  const read: tf.Tensor[] = [];
  let memoryBytes = 0;
  // The part of each batch's units in the window's mean. A rank without a share of its own computes gradients of 0.
  const parts = partsOf(loss, own.length > 0 ? counts : counts.map(() => Number.POSITIVE_INFINITY));
  const shares = parts.map((part) => tf.scalar(part));
  uploadEarly(...shares);
  const differentiate = (i: number) => {
    const pass = {training: true, seed: seed * SEEDS_PER_WINDOW + i};
    return batchGradients(
      variables,
      shares[i],
      (constants) => loss.compute(model, window[i], pass, constants),
      () => loss.constants?.(model, window[i]),
    );
  };
  const recorded = () =>
    recorder?.run(
      () => loss.pass?.(model, window[0], variables.size),
      parts[0],
      (recording) => {
        if (!recording) return differentiate(0);
        const {pass, tensors, share} = recording;
        return batchGradients(variables, share, () => ({loss: pass.loss(tensors)}));
      },
    );
  try {
    await beforeComputing?.(variables, () =>
      tf.tidy(() => {
        const first = differentiate(0);
        tf.stack([globalNorm(Object.values(first.gradients)), first.loss]);
        first.metrics?.dispose();
        return first.gradients;
      }),
    );
    for (const [place, i] of (own.length > 0 ? own : all.slice(0, 1)).entries()) {
      if (place > 0) await nextTask(); // a long window must not block a notebook
      const batch = (all.length === 1 && recorded()) || differentiate(i);
      await settleGradients();
      losses.push(batch.loss);
      if (batch.metrics) metrics.push(batch.metrics);
      addTo(gradients, batch.gradients);
      memoryBytes = batch.memoryBytes;
    }
    const sums = await ranks().sumGradients({gradients, losses});
    ({gradients, losses} = sums);
    const norm = globalNorm(Object.values(gradients));
    const numbers = tf.stack([norm, ...losses, ...sums.stopped]) as tf.Tensor1D;
    read.push(norm, numbers, ...sums.stopped);
    beforeReading?.({gradients, variables, norm, numbers});
    const [gradNorm, ...values] = await numbers.data(); // a single read, for which a card has to finish
    const mean = values.slice(0, losses.length).reduce((sum, part) => sum + part, 0);
    ranks().follow(values.slice(losses.length));
    const counted = own.length > 0 ? metrics : [];
    const measured = await readMeasured(loss, counted, window.length);
    return {
      loss: mean,
      tokens,
      gradNorm,
      gradients,
      memoryBytes,
      variables,
      ...(measured && {measured, metrics: metricsOf(loss, measured)}),
    };
  } catch (error) {
    tf.dispose(gradients);
    throw error;
  } finally {
    tf.dispose([shares, losses, metrics, read]);
  }
}

function assertTrainable(model: TrainableModel, window: Batch[], variables: Map<string, tf.Variable>): void {
  if (window.length === 0) {
    throw new TfjsLoraError('INVALID_ARGUMENT', 'training: expected at least one batch, got none');
  }
  if (variables.size === 0) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `training: expected trainable weights, got none. ${howToTrain(model)}`,
    );
  }
  assertUnmerged(model);
}

/** Returns the part of each unit of a batch in the window's mean, by batch. */
function partsOf({averagesBatches}: TrainingLoss, counts: number[]): number[] {
  if (averagesBatches) return counts.map((count) => 1 / (count * counts.length));
  const part = 1 / counts.reduce((sum, count) => sum + count, 0);
  return counts.map(() => part);
}

/**
 * Reads what was measured in batches, and adds it up over those of all ranks.
 *
 * @param own this rank's
 * @param batches number of batches on all ranks
 */
export async function readMeasured(
  {metrics, measures: names = metrics}: TrainingLoss,
  own: tf.Tensor1D[],
  batches: number,
): Promise<Measured | undefined> {
  if (names.length === 0) return undefined;
  const rows = await Promise.all(own.map((batch) => batch.data()));
  const sums = await ranks().sum(names.map((_, k) => rows.reduce((sum, row) => sum + row[k], 0)));
  return {sums: Object.fromEntries(names.map((name, k) => [name, sums[k]])), batches};
}

/**
 * Differentiates one batch's part of the window's loss. Weights that the loss does not depend on have no gradient.
 *
 * @param share what each unit of the batch contributes to the window's mean
 */
function batchGradients(
  variables: Map<string, tf.Variable>,
  share: tf.Scalar,
  compute: (constants?: tf.Tensor) => BatchLoss,
  constantsOf?: () => tf.Tensor | undefined,
): BatchGradients {
  // Tidied in case of errors: otherwise the loss would leak when a backward pass throws.
  return tf.tidy(() => {
    let memoryBytes = 0;
    let metrics: tf.Tensor1D | undefined;
    const constants = constantsOf?.();
    const lossOf = () => {
      const computed = compute(constants);
      metrics = computed.metrics && tf.keep(computed.metrics);
      memoryBytes = tf.memory().numBytes;
      freeSpent(share);
      return computed.loss;
    };
    const {value, grads} = tf.engine().gradients(lossOf, [...variables.values()], share, true);
    const named = [...variables.keys()].map((key, i) => [key, grads[i]] as const);
    return {
      loss: tf.mul(value, share) as tf.Scalar,
      metrics,
      gradients: Object.fromEntries(named.filter(([, gradient]) => gradient)) as tf.NamedTensorMap,
      memoryBytes,
    };
  });
}

/** Adds a batch's gradients to the window's, and frees what it has added up. */
function addTo(sums: tf.NamedTensorMap, gradients: tf.NamedTensorMap): void {
  for (const [key, gradient] of Object.entries(gradients)) {
    const sum = sums[key];
    sums[key] = sum ? sum.add(gradient) : gradient;
    if (sum) tf.dispose([sum, gradient]);
  }
}

/** Refuses merged adapters, which would get gradients of 0 and only seem to train. */
function assertUnmerged(model: TrainableModel): void {
  for (const [name, {isMerged}] of model.layersWithAdapters?.() ?? []) {
    if (!isMerged) continue;
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `training layer ${name}: expected its adapter unmerged, got it merged. Call unmergeLoRA() first.`,
    );
  }
}

/** Reads a scalar and disposes it. */
export async function scalarValue(scalar: tf.Scalar): Promise<number> {
  try {
    return (await scalar.data())[0];
  } finally {
    scalar.dispose();
  }
}

/** Advises when nothing trains: existing adapters may be inactive or frozen, so adding another is not always right. */
function howToTrain({adapterNames = [], activeAdapters = [], trainable}: TrainableModel): string {
  if (trainable === false) return 'Set model.trainable = true.';
  const name = activeAdapters[0] ?? adapterNames[0];
  if (name === undefined) return 'Call applyLoRA() first.';
  const state = activeAdapters.length > 0 ? 'is frozen' : 'is inactive';
  return `Adapter "${name}" ${state}: load it with loadAdapter(folder, {trainable: true}), or call setAdapter("${name}").`;
}
