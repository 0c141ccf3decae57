import type {StepLog} from '../../../src/index.ts';

/** Makes the log of a step in a run of four. */
export const stepLog = (step: number, seconds: number, more: Partial<StepLog> = {}): StepLog => ({
  step,
  seconds,
  totalSteps: 4,
  epoch: step / 4,
  loss: 2.5,
  learningRate: 1e-4,
  gradNorm: 1,
  tokens: 10,
  tokensPerSecond: 123.4,
  tokensSeen: 40 * step,
  secondsLeft: (seconds / step) * (4 - step),
  memoryBytes: 1.5 * 2 ** 30,
  ...more,
});
