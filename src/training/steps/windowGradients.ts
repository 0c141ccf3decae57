import * as tf from '@tensorflow/tfjs';
import {freeSpent} from '../../../layers/ops/freeSpent.ts';
import {globalNorm} from '../../../layers/ops/globalNorm.ts';
import {uploadEarly} from '../../../layers/ops/uploadEarly.ts';
import type {Batch} from '../../../models/batchLoss.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {toRows} from '../../data/batches/batches.ts';
import {ranks} from '../cluster/ranks.ts';
import type {BatchGradients, PassRecorder} from './passRecorder.ts';
import type {TrainableModel} from './trainableModel.ts';

/** Loss and gradients of one accumulation window. */
export interface WindowGradients {
  /** Mean loss over the labels that count in the whole window. */
  loss: number;
  /** Number of labels that counted. */
  tokens: number;
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
export interface UnreadGradients extends Pick<WindowGradients, 'gradients' | 'variables'> {
  /** Global norm of the gradients. */
  norm: tf.Scalar;
}

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
  recorder?: PassRecorder,
): Promise<WindowGradients> {
  const window = await Promise.all([batches].flat().map((batch) => toRows(batch)));
  const variables = model.trainableParameters();
  assertTrainable(model, window, variables);
  const tokens = window.reduce((count, batch) => count + model.targetCount(batch), 0);
  const all = [...window.keys()];
  const own = ranks().share(all);
  let gradients: tf.NamedTensorMap = {};
  let losses: tf.Scalar[] = [];
  const read: tf.Tensor[] = [];
  let memoryBytes = 0;
  // The part of a label in the window's mean. A rank without a share of its own computes gradients of 0.
  const shareValue = own.length > 0 ? 1 / tokens : 0;
  const share = tf.scalar(shareValue);
  uploadEarly(share);
  const differentiate = (i: number) =>
    batchGradients(variables, share, () =>
      model.lossSum(window[i], {training: true, seed: seed * SEEDS_PER_WINDOW + i}),
    );
  const recorded = () => {
    const pass = model.lossPass?.(window[0]);
    return recorder?.run(pass, shareValue, (tensors, given) =>
      pass && tensors && given
        ? batchGradients(variables, given, () => pass.loss(tensors))
        : differentiate(0),
    );
  };
  try {
    await beforeComputing?.(variables, () =>
      tf.tidy(() => {
        const first = differentiate(0);
        tf.stack([globalNorm(Object.values(first.gradients)), first.loss]);
        return first.gradients;
      }),
    );
    for (const [place, i] of (own.length > 0 ? own : all.slice(0, 1)).entries()) {
      if (place > 0) await tf.nextFrame(); // a long window must not block a notebook
      const batch = (all.length === 1 && recorded()) || differentiate(i);
      losses.push(batch.loss);
      addTo(gradients, batch.gradients);
      memoryBytes = batch.memoryBytes;
    }
    ({gradients, losses} = await ranks().sumGradients({gradients, losses}));
    const norm = globalNorm(Object.values(gradients));
    const numbers = tf.stack([norm, ...losses]) as tf.Tensor1D;
    read.push(norm, numbers);
    beforeReading?.({gradients, variables, norm});
    const [gradNorm, ...shares] = await numbers.data(); // a single read, for which a card has to finish
    const loss = shares.reduce((sum, share) => sum + share, 0);
    return {loss, tokens, gradNorm, gradients, memoryBytes, variables};
  } catch (error) {
    tf.dispose(gradients);
    throw error;
  } finally {
    tf.dispose([share, losses, read]);
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

/**
 * Differentiates one batch's part of the window's loss. Weights that the loss does not depend on have no gradient.
 *
 * @param share 1 divided by the window's number of labels
 */
function batchGradients(
  variables: Map<string, tf.Variable>,
  share: tf.Scalar,
  lossSum: () => tf.Scalar,
): BatchGradients {
  // Tidied in case of errors: otherwise the loss would leak when a backward pass throws.
  return tf.tidy(() => {
    let memoryBytes = 0;
    const lossOf = () => {
      const sum = lossSum();
      memoryBytes = tf.memory().numBytes;
      freeSpent(share);
      return sum;
    };
    const {value, grads} = tf.engine().gradients(lossOf, [...variables.values()], share, true);
    const named = [...variables.keys()].map((key, i) => [key, grads[i]] as const);
    return {
      loss: tf.mul(value, share) as tf.Scalar,
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
  for (const [name, {isMerged}] of model.adaptedLayers?.() ?? []) {
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
function howToTrain({adapterNames = [], activeAdapters = []}: TrainableModel): string {
  const name = activeAdapters[0] ?? adapterNames[0];
  if (name === undefined) return 'Call applyLoRA() first.';
  const state = activeAdapters.length > 0 ? 'is frozen' : 'is inactive';
  return `Adapter "${name}" ${state}: load it with loadAdapter(folder, {trainable: true}), or call setAdapter("${name}").`;
}
