import * as tf from '@tensorflow/tfjs';
import type {EpochLogs, Evaluation, StepLog} from './callbacks.ts';

/** What a training run did: Keras's `History` per epoch, and every step and evaluation. */
export class TrainingHistory extends tf.History {
  /** Numbers of the epochs run. */
  override epoch: number[] = [];
  /** Per epoch: `loss`, and `val_loss` where there was validation. */
  override history: Record<string, number[]> = {};
  /** Of this call; after a resumption the first is not step 1. */
  readonly steps: StepLog[] = [];
  /** Whether `signal` ended the run before its time. */
  isInterrupted = false;
  /** With the step after which each was made. */
  readonly evaluations: (Evaluation & {step: number})[] = [];

  /** Loss of every step. */
  get loss(): number[] {
    return this.steps.map(({loss}) => loss);
  }

  /** Learning rate of every step. */
  get learningRate(): number[] {
    return this.steps.map(({learningRate}) => learningRate);
  }

  /** Loss of every evaluation. */
  get validationLoss(): number[] {
    return this.evaluations.map(({loss}) => loss);
  }

  addEpoch(epoch: number, logs: EpochLogs): void {
    this.epoch.push(epoch);
    for (const [name, value] of Object.entries(logs)) {
      this.history[name] ??= [];
      this.history[name].push(value);
    }
  }
}
