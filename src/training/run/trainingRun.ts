import type {TrainingData} from '../../data/batches/batches.ts';
import type {TrainableModel} from '../steps/trainableModel.ts';
import type {StepResult, TrainingStep} from '../steps/trainingStep.ts';
import type {CallbackList, Evaluation, LogEntry} from './callbacks.ts';
import type {FitPlan} from './fitArgs.ts';
import type {TrainingHistory} from './trainingHistory.ts';

/** Where in the data a run is, with what an epoch's mean loss needs. */
export interface DataPosition {
  epoch: number;
  /** Windows of the epoch that are done, and the batches in them. */
  windows: number;
  batches: number;
  /** Of the epoch's steps so far: loss times labels, and labels. */
  lossSum: number;
  tokens: number;
}

/** All that a run has to remember to go on exactly; plain JSON. */
export interface RunProgress {
  /** Optimizer steps done, skipped ones included. */
  step: number;
  /** Epochs done, as a fraction where the length is known. */
  epoch: number;
  position: DataPosition;
  /** Positions run, padding included. */
  tokensSeen: number;
  /** Sum of the steps' losses, and how many there were: skipped steps count in neither. */
  lossSum: number;
  lossSteps: number;
  /** The same since the last line of the log. */
  pendingLossSum: number;
  pendingSteps: number;
  /** Steps skipped because loss or gradient was not finite: in all, and in a row until now. */
  skippedSteps: number;
  skippedInRow: number;
  /** The latest evaluation, and the one with the lowest loss that has a checkpoint. */
  evaluation?: Evaluation & {step: number};
  best?: {step: number; loss: number};
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

/** The beginning of an epoch. */
export function positionAt(epoch: number): DataPosition {
  return {epoch, windows: 0, batches: 0, lossSum: 0, tokens: 0};
}

/** One call of `fitDataset`: what it goes by and how far it is. Its features share it. */
export class TrainingRun {
  progress: RunProgress;
  /** Lines of the log, those from before a resumption included. */
  log: LogEntry[] = [];
  callbacks!: CallbackList;
  /** `TrainingStep.steps` when the run began. */
  firstTrainerStep: number;
  /** Steps done and positions run before this call: above 0 when a run goes on. */
  firstStep = 0;
  firstTokens = 0;
  /** Whether the stop that was asked for came in the middle of an evaluation, which then is still to be done. */
  isStoppedInEvaluation = false;
  /** Examples that this call has trained on. */
  examples = 0;
  readonly started = performance.now();

  constructor(
    readonly model: TrainableModel,
    readonly trainer: TrainingStep,
    readonly data: TrainingData,
    readonly plan: FitPlan,
    readonly history: TrainingHistory,
    /** Batches in an epoch and steps of the whole run, where known. */
    readonly batchesPerEpoch: number | undefined,
    readonly totalSteps: number | undefined,
    /** Evaluates on `validationData`, unless that was done after this very step; `isForced`: even then. */
    readonly validate: (run: TrainingRun, isForced?: boolean) => Promise<Evaluation | undefined>,
  ) {
    this.progress = newProgress(plan.initialEpoch);
    this.firstTrainerStep = trainer.steps;
  }

  /** Whether a stop was asked for. */
  get isInterrupted(): boolean {
    return this.plan.signal?.aborted ?? false;
  }

  get isOver(): boolean {
    const {progress, plan, model} = this;
    return (
      this.isInterrupted || model.stopTraining || progress.step >= (plan.maxSteps ?? Number.POSITIVE_INFINITY)
    );
  }

  /** Seconds since this call began. */
  get seconds(): number {
    return (performance.now() - this.started) / 1000;
  }

  /** Seconds the rest should take at this call's pace, where the length is known. */
  get secondsLeft(): number | undefined {
    const {step} = this.progress;
    if (this.totalSteps === undefined || step === this.firstStep) return undefined;
    return (this.seconds / (step - this.firstStep)) * Math.max(0, this.totalSteps - step);
  }

  /** Counts a step that is over; one that was skipped adds to no loss. */
  count(
    {loss, tokens}: StepResult,
    isSkipped: boolean,
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
  }

  /** Adds a line to the log. */
  async addLog(numbers: Record<string, number>): Promise<void> {
    const {epoch, step, tokensSeen} = this.progress;
    const entry = {...numbers, epoch, num_input_tokens_seen: tokensSeen, step};
    this.log.push(entry);
    await this.callbacks.emit('onLog', entry);
  }
}
