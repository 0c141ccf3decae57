import * as tf from '@tensorflow/tfjs';
import type {Replay} from '../../../layers/ops/backendTraits.ts';
import {canRecord, recordReplay} from '../../../layers/ops/recordReplay.ts';
import type {LossPass} from '../../../models/lossPass.ts';

/** Result of one batch's backward pass. The caller disposes `loss` and `gradients`. */
export interface BatchGradients {
  loss: tf.Scalar;
  /** Numbers that describe the batch, if its loss has any; the caller disposes them. */
  metrics?: tf.Tensor1D;
  gradients: tf.NamedTensorMap;
  memoryBytes: number;
}

/**
 * A recording holds all that a pass has in memory at the same time, so it is made only for passes for whose commands the
 * card would wait.
 */
const MOST_TOKENS = 8192;

/** A pass to record, with tensors of its inputs and constants, and of the number by which gradients are multiplied. */
export interface PassTensors {
  pass: LossPass;
  tensors: Record<string, tf.Tensor>;
  share: tf.Scalar;
}

interface Recorded extends BatchGradients {
  key: string;
  replay: Replay;
  inputs: Record<string, tf.Tensor>;
}

/**
 * Records the commands of a forward and backward pass on a card once passes of one kind follow each other, and then
 * replays them with each batch's values, so that a pass costs the host hardly anything.
 *
 * The results of a pass are written over by the next one.
 */
export class PassRecorder {
  private recorded?: Recorded;
  private latestKey?: string;

  /**
   * Runs a pass.
   *
   * @param passOf returns undefined if the pass cannot be recorded
   * @param share number by which gradients are multiplied
   * @param run computes the pass, from the tensors of what is recorded if that is given
   */
  run(
    passOf: () => LossPass | undefined,
    share: number,
    run: (recording?: PassTensors) => BatchGradients,
  ): BatchGradients {
    const pass = canRecord() ? passOf() : undefined;
    if (!pass || tf.util.sizeFromShape(pass.inputs.inputIds.shape) > MOST_TOKENS) {
      this.forget();
      return run();
    }
    const {key} = pass;
    if (this.recorded?.key === key && this.recorded.replay.isCurrent)
      return this.replayed(this.recorded, pass, share);
    const isRepeated = this.latestKey === key;
    this.forget();
    this.latestKey = key;
    return isRepeated ? this.recording(pass, share, run) : run();
  }

  /** Frees the recording. */
  forget(): void {
    this.latestKey = undefined;
    if (!this.recorded) return;
    const {replay, inputs, loss, gradients} = this.recorded;
    this.recorded = undefined;
    replay.dispose();
    tf.dispose([inputs, loss, gradients]);
  }

  private recording(
    pass: LossPass,
    share: number,
    run: (recording: PassTensors) => BatchGradients,
  ): BatchGradients {
    const {key, inputs: given, constants} = pass;
    const named = Object.entries(given).map(([name, {values, shape, dtype}]) => [
      name,
      tf.tensor(values, shape, dtype),
    ]);
    const tensors: Record<string, tf.Tensor> = {...Object.fromEntries(named), ...constants()};
    const inputs = {...tensors, share: tf.scalar(share)};
    let result: BatchGradients | undefined;
    let replay: Replay | undefined;
    try {
      replay = recordReplay(Object.values(inputs), () => {
        result = run({pass, tensors, share: inputs.share});
      });
    } finally {
      if (!replay) tf.dispose(inputs);
    }
    const made = result as BatchGradients;
    if (!replay) return made;
    this.recorded = {key, replay, inputs, ...made};
    return copied(made);
  }

  private replayed({replay, inputs, ...made}: Recorded, pass: LossPass, share: number): BatchGradients {
    const writes = Object.entries(pass.inputs).map(([name, {values}]): [tf.Tensor, tf.TypedArray] => [
      inputs[name],
      values,
    ]);
    replay.run({writes: [...writes, [inputs.share, Float32Array.of(share)]]});
    return copied(made);
  }
}

/** Returns tensors of the same buffers for a caller to dispose. */
function copied({loss, gradients, memoryBytes}: BatchGradients): BatchGradients {
  const named = Object.entries(gradients).map(([name, gradient]) => [name, gradient.clone()]);
  return {loss: loss.clone(), gradients: Object.fromEntries(named), memoryBytes};
}
