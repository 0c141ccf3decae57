import type {PredictionProgress} from '../prediction/predictDataset.ts';
import {SCORE_NAMES} from '../prediction/predictionScores.ts';
import type {StepLog} from './callbacks.ts';
import {formatBytes} from './formatBytes.ts';

/** Describes how many shaders are compiled, for a line of progress. */
export const describeCompiling = (compiled: number, total: number): string =>
  `compiling shaders ${compiled}/${total}`;

/** Describes how often the chosen answer of a pair got the higher reward or score; empty for losses without either. */
export function accuracyOf(metrics: Record<string, number> = {}): string {
  const accuracy = metrics['rewards/accuracies'] ?? metrics.accuracy;
  return accuracy === undefined ? '' : ` accuracy ${accuracy.toFixed(2)}`;
}

/** Describes the most telling numbers of an evaluation besides the loss: accuracy, ROUGE-L, and the user's own scores. */
export function scoresOf(metrics: Record<string, number> = {}): string {
  const scores = Object.entries(metrics).filter(
    ([name]) => !name.includes('/') && (name === 'rouge-l' || !SCORE_NAMES.includes(name)),
  );
  return accuracyOf(metrics) + scores.map(([name, value]) => ` ${name} ${Number(value.toFixed(4))}`).join('');
}

/** Describes how many prompts an evaluation has answered, for a line of progress. */
export const describeAnswering = ({done, total}: PredictionProgress): string => `answers ${done}/${total}`;

/** Describes a step in one line: loss, learning rate, pace, time left and memory. */
export function describeStep(log: StepLog): string {
  const {loss, metrics, learningRate, tokensPerSecond, seconds, secondsLeft, memoryBytes, isSkipped} = log;
  const left = secondsLeft === undefined ? '' : ` eta ${formatSeconds(secondsLeft)}`;
  const rate = Number.isNaN(learningRate) ? '' : ` lr ${learningRate.toExponential(2)}`;
  const pace = `${Math.round(tokensPerSecond)} tok/s ${formatSeconds(seconds)}${left}`;
  return `loss ${loss.toFixed(4)}${accuracyOf(metrics)}${isSkipped ? ' skipped' : ''}${rate} ${pace} ${formatBytes(memoryBytes)}`;
}

function formatSeconds(seconds: number): string {
  const whole = Math.round(seconds);
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  const two = (value: number) => String(value).padStart(2, '0');
  if (hours > 0) return `${hours}h${two(minutes)}m`;
  return minutes > 0 ? `${minutes}m${two(whole % 60)}s` : `${whole}s`;
}
