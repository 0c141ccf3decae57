import * as tf from '@tensorflow/tfjs';
import {freeSpent} from '../../../layers/ops/freeSpent.ts';
import {globalNorm} from '../../../layers/ops/globalNorm.ts';
import {uploadEarly} from '../../../layers/ops/uploadEarly.ts';
import type {Batch} from '../../../models/batchLoss.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {toRows} from '../../data/batches/batches.ts';
import type {TrainableModel} from './trainableModel.ts';

/** Loss and gradients of one accumulation window. */
export interface WindowGradients {
  /** Mean over the labels that count, over the whole window. */
  loss: number;
  /** Labels that counted. */
  tokens: number;
  /** Global L2 norm of the gradients. */
  gradNorm: number;
  /** By the weight's key in a PEFT file. The caller disposes them. */
  gradients: tf.NamedTensorMap;
  /** What trains, by the same keys. */
  variables: Map<string, tf.Variable>;
  /** In tensors when the last batch's backward pass began: weights, optimizer state, what that pass needs. */
  memoryBytes: number;
}

/** What is known of a window before the host has read anything. */
export interface UnreadGradients extends Pick<WindowGradients, 'gradients' | 'variables'> {
  /** Of the gradients. */
  norm: tf.Scalar;
}

/** Micro-batches of one window draw their dropout from seeds of their own. */
const SEEDS_PER_WINDOW = 1009;

/**
 * Loss and gradients of a batch, or of several micro-batches as one window: the sum of the losses over the count of
 * all labels, never a mean of means. Gradients are added up micro-batch by micro-batch, so memory does not grow with
 * the window.
 *
 * @param seed of dropout
 * @param prepare is called first, with the weights that train, and the pass over the first batch, which gives its gradients, at the
 *   caller's disposal
 * @param beforeReading is called once all is computed and before the host waits for it: the place for more work
 * @throws TfjsLoraError `INVALID_ARGUMENT` when the window is empty or no weight trains, `UNSUPPORTED` while adapters are
 *   merged, and what the model throws
 */
export async function windowGradients(
  model: TrainableModel,
  batches: Batch | Batch[],
  seed = 0,
  prepare?: (variables: Map<string, tf.Variable>, pass: () => tf.NamedTensorMap) => Promise<void>,
  beforeReading?: (computed: UnreadGradients) => void,
): Promise<WindowGradients> {
  const window = await Promise.all([batches].flat().map((batch) => toRows(batch)));
  const variables = model.trainableParameters();
  const parameters = [...variables];
  if (window.length === 0) {
    throw new TfjsLoraError('INVALID_ARGUMENT', 'training: expected at least one batch, got none');
  }
  if (parameters.length === 0) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `training: expected trainable weights, got none. ${howToTrain(model)}`,
    );
  }
  assertUnmerged(model);
  const tokens = window.reduce((count, batch) => count + model.targetCount(batch), 0);
  const gradients: tf.NamedTensorMap = {};
  const losses: tf.Scalar[] = []; // of each batch its share: a sum, the count being the window's
  const read: tf.Tensor[] = [];
  let memoryBytes = 0;
  const share = tf.scalar(1 / tokens); // of a label in the window's mean
  uploadEarly(share);
  const differentiate = (batch: Batch, i: number) =>
    tf.tidy(() => {
      const lossOf = () => {
        const sum = model.lossSum(batch, {training: true, seed: seed * SEEDS_PER_WINDOW + i});
        memoryBytes = tf.memory().numBytes;
        freeSpent(share);
        return sum;
      };
      const trained = [...variables.values()];
      const {value, grads} = tf.engine().gradients(lossOf, trained, share, true);
      const named = trained.map(({name}, i) => [name, grads[i]] as const).filter(([, gradient]) => gradient);
      return {
        value: tf.mul(value, share) as tf.Scalar,
        grads: Object.fromEntries(named) as tf.NamedTensorMap,
      };
    }); // tidied for the sake of errors: else the loss of a backward pass that throws would stay
  try {
    await prepare?.(variables, () =>
      tf.tidy(() => {
        const {value, grads} = differentiate(window[0], 0);
        tf.stack([globalNorm(Object.values(grads)), value]);
        return Object.fromEntries(
          parameters.map(([key, {name}]) => [key, grads[name]]).filter(([, dw]) => dw),
        );
      }),
    );
    for (const [i, batch] of window.entries()) {
      if (i > 0) await tf.nextFrame(); // a long window must not block a notebook
      const {value, grads} = differentiate(batch, i);
      losses.push(value);
      for (const [key, {name}] of parameters) {
        const [sum, gradient] = [gradients[key], grads[name]];
        if (!gradient) continue; // this batch's loss does not depend on the weight
        gradients[key] = sum ? sum.add(gradient) : gradient;
        if (sum) tf.dispose([sum, gradient]);
      }
    }
    const norm = globalNorm(Object.values(gradients));
    const numbers = tf.stack([norm, ...losses]) as tf.Tensor1D;
    read.push(norm, numbers);
    beforeReading?.({gradients, variables, norm});
    const [gradNorm, ...shares] = await numbers.data(); // one reading, for which a card has to finish
    const loss = shares.reduce((sum, share) => sum + share, 0);
    return {loss, tokens, gradNorm, gradients, memoryBytes, variables};
  } catch (error) {
    tf.dispose(gradients);
    throw error;
  } finally {
    tf.dispose([share, losses, read]);
  }
}

/** A merged adapter would get gradients of 0 and seem to train. */
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

/** What to do when nothing trains: adapters there are may rest or be frozen, and another would be one too many. */
function howToTrain({adapterNames = [], activeAdapters = []}: TrainableModel): string {
  const name = activeAdapters[0] ?? adapterNames[0];
  if (name === undefined) return 'Call applyLoRA() first.';
  const state = activeAdapters.length > 0 ? 'is frozen' : 'rests';
  return `Adapter "${name}" ${state}: load it with loadAdapter(folder, {trainable: true}), or call setAdapter("${name}").`;
}
