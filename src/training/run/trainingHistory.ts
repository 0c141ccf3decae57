import * as tf from '@tensorflow/tfjs';
import type {EpochLogs, Evaluation, StepLog} from './callbacks.ts';

/** Record of a training run: Keras's `History` per epoch, and every step and evaluation. */
export class TrainingHistory extends tf.History {
  /** Numbers of the epochs that ran. */
  override epoch: number[] = [];
  /** Values per epoch: `loss`, and `val_loss` if there was validation. */
  override history: Record<string, number[]> = {};
  /** Steps of this call; if the run was resumed, the first is not step 1. */
  readonly steps: StepLog[] = [];
  /** Whether `signal` stopped the run early. */
  isInterrupted = false;
  /** Evaluations, with the step after which each was made. */
  readonly evaluations: (Evaluation & {step: number})[] = [];

  /** Returns the loss of every step. */
  get loss(): number[] {
    return this.steps.map(({loss}) => loss);
  }

  /** Returns the learning rate of every step. */
  get learningRate(): number[] {
    return this.steps.map(({learningRate}) => learningRate);
  }

  /** Returns the loss of every evaluation. */
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
