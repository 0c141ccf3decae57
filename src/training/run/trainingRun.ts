import type {TrainingData} from '../../data/batches/batches.ts';
import {addMeasured, type Measured} from '../losses/trainingLoss.ts';
import {AnswerScorer} from '../prediction/answerScorer.ts';
import type {TrainableModel} from '../steps/trainableModel.ts';
import type {StepOutcome, TrainingStep} from '../steps/trainingStep.ts';
import {BestMetric} from './bestMetric.ts';
import type {CallbackList, Evaluation, LogEntry} from './callbacks.ts';
import type {FitPlan} from './fitArgs.ts';
import type {TrainingHistory} from './trainingHistory.ts';

/** A run's place in the data, with the sums for an epoch's mean loss. */
export interface DataPosition {
  epoch: number;
  /** Windows of the epoch that are done, and the batches in them. */
  windows: number;
  batches: number;
  /** Sums over the epoch's steps so far: loss times labels, and labels. */
  lossSum: number;
  tokens: number;
}

/** State from which a run can resume exactly; plain JSON. */
export interface RunProgress {
  /** Number of optimizer steps done, including skipped ones. */
  step: number;
  /** Number of epochs done; a fraction if the length is known. */
  epoch: number;
  position: DataPosition;
  /** Processed positions, padding included. */
  tokensSeen: number;
  /** Sum of the steps' losses, and their number, both without skipped steps. */
  lossSum: number;
  lossSteps: number;
  /** The same since the last line of the log. */
  pendingLossSum: number;
  pendingSteps: number;
  /** What the loss measured in the same steps, if it measures anything. */
  pendingMeasured?: Measured;
  /** Number of steps skipped because loss or gradient was not finite: in total, and consecutively until now. */
  skippedSteps: number;
  skippedInRow: number;
  /** The latest evaluation, and the best one that has a checkpoint. */
  evaluation?: Evaluation & {step: number};
  best?: Pick<Evaluation, 'loss' | 'metrics'> & {step: number};
}

export function newProgress(epoch: number): RunProgress {
  return {
    step: 0,
    epoch,
    position: positionAt(epoch),
    tokensSeen: 0,
    lossSum: 0,
    lossSteps: 0,
    pendingLossSum: 0,
    pendingSteps: 0,
    skippedSteps: 0,
    skippedInRow: 0,
  };
}

/** Returns the beginning of an epoch. */
export function positionAt(epoch: number): DataPosition {
  return {epoch, windows: 0, batches: 0, lossSum: 0, tokens: 0};
}

/** One call of `fitDataset`: its settings and its progress, shared by its features. */
export class TrainingRun {
  progress: RunProgress;
  /** Lines of the log, including those from before a resumption. */
  log: LogEntry[] = [];
  callbacks!: CallbackList;
  /** `TrainingStep.steps` when the run began. */
  firstTrainerStep: number;
  /** Steps done and positions processed before this call: above 0 when a run resumes. */
  firstStep = 0;
  firstTokens = 0;
  /** Names of the scores of answers that evaluations have. */
  readonly scoreNames: readonly string[];
  /** The number that decides which evaluation is the best. */
  readonly bestMetric: BestMetric;
  /** Whether a requested stop came in the middle of an evaluation, which then is still to be done. */
  isStoppedInEvaluation = false;
  /** Number of examples that this call has trained on. */
  examples = 0;
  readonly started = performance.now();

  constructor(
    readonly model: TrainableModel,
    readonly trainer: TrainingStep,
    readonly data: TrainingData,
    readonly plan: FitPlan,
    readonly history: TrainingHistory,
    /** Number of batches in an epoch and of steps in the whole run, if known. */
    readonly batchesPerEpoch: number | undefined,
    readonly totalSteps: number | undefined,
    /** Evaluates on `validationData`, unless that was done after this very step; `isForced` evaluates even then. */
    readonly validate: (run: TrainingRun, isForced?: boolean) => Promise<Evaluation | undefined>,
    /** Scores the answers to the validation data, if the settings ask for it. */
    readonly scorer?: AnswerScorer,
  ) {
    this.scoreNames = scorer ? AnswerScorer.namesOf(plan.metrics) : [];
    this.bestMetric = BestMetric.of(plan, [...trainer.loss.metrics, ...this.scoreNames]);
    this.progress = newProgress(plan.initialEpoch);
    this.firstTrainerStep = trainer.steps;
  }

  /** Whether a stop was requested. */
  get isInterrupted(): boolean {
    return this.plan.signal?.aborted ?? false;
  }

  get isOver(): boolean {
    const {progress, plan, model} = this;
    return (
      this.isInterrupted || model.stopTraining || progress.step >= (plan.maxSteps ?? Number.POSITIVE_INFINITY)
    );
  }

  /** Returns the seconds since this call began. */
  get seconds(): number {
    return (performance.now() - this.started) / 1000;
  }

  /** Estimates the seconds for the rest at this call's pace, if the length is known. */
  get secondsLeft(): number | undefined {
    const {step} = this.progress;
    if (this.totalSteps === undefined || step === this.firstStep) return undefined;
    return (this.seconds / (step - this.firstStep)) * Math.max(0, this.totalSteps - step);
  }

  /** Counts a completed step; a skipped one adds to no loss. */
  count(
    {loss, tokens, measured, isSkipped}: StepOutcome,
    batches: number,
    examples: number,
    positions: number,
  ): void {
    const {progress, batchesPerEpoch} = this;
    const {position} = progress;
    progress.step++;
    progress.tokensSeen += positions;
    this.examples += examples;
    position.windows++;
    position.batches += batches;
    progress.epoch = position.epoch + (batchesPerEpoch ? position.batches / batchesPerEpoch : 0);
    progress.skippedInRow = isSkipped ? progress.skippedInRow + 1 : 0;
    if (isSkipped) {
      progress.skippedSteps++;
      return;
    }
    position.lossSum += loss * tokens;
    position.tokens += tokens;
    progress.lossSum += loss;
    progress.lossSteps++;
    progress.pendingLossSum += loss;
    progress.pendingSteps++;
    const pendingMeasured = addMeasured(progress.pendingMeasured, measured);
    if (pendingMeasured) progress.pendingMeasured = pendingMeasured;
  }

  /** Adds a line to the log. */
  async addLog(numbers: Record<string, number>): Promise<void> {
    const {epoch, step, tokensSeen} = this.progress;
    const entry = {...numbers, epoch, num_input_tokens_seen: tokensSeen, step};
    this.log.push(entry);
    await this.callbacks.emit('onLog', entry);
  }
}
