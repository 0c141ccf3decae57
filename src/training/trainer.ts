import * as tf from '@tensorflow/tfjs';
import type {Batch} from '../../models/batchLoss.ts';
import type {GenerateProgress} from '../../models/generation/generateOptions.ts';
import {nextTask} from '../../models/nextTask.ts';
import {TfjsLoraError} from '../../quant/errors.ts';
import type {RunFolder, RunLock} from '../../quant/folders/runFolder.ts';
import {assertKnownOptions, type OptionNames} from '../../quant/knownOptions.ts';
import {warn} from '../../quant/warn.ts';
import {
  assertData,
  batchesOf,
  countBatches,
  emptyData,
  type Item,
  isReadOnce,
  type TrainingData,
} from '../data/batches/batches.ts';
import {type ExampleKind, rowsPerExample} from '../data/batches/collate.ts';
import {orderedByLength} from '../data/batches/lengthGrouped.ts';
import {RecordDataset} from '../data/records/recordDataset.ts';
import {RecordEncoder, type RecordOptions} from '../data/records/recordEncoder.ts';
import {isRecord, type RecordData, type TrainingRecord} from '../data/records/trainingRecord.ts';
import {assertSameRun} from './callbacks/rankAgreement.ts';
import {tokenizingProgress, trainingFeatures} from './callbacks/trainingFeatures.ts';
import {assertSavable} from './checkpoints/checkpoints.ts';
import {assertResumable, checkpointToResume, leaveLaterCheckpoints, resume} from './checkpoints/resume.ts';
import {restoreTrainedWeights} from './checkpoints/trainedWeights.ts';
import {ranks} from './cluster/ranks.ts';
import {
  type PromptBatch,
  promptBatch,
  type Rollout,
  type RolloutModel,
  type RolloutOptions,
} from './losses/rollouts.ts';
import {
  addMeasured,
  type BatchLoss,
  CROSS_ENTROPY,
  type LossModel,
  metricsOf,
} from './losses/trainingLoss.ts';
import {openRunFolder} from './output/diskRunFolder.ts';
import {
  clearOutputFolder,
  FIT_WORDS,
  holdOutputFolder,
  isFinishedRun,
  markUnfinished,
  type OutputWishes,
} from './output/outputFolder.ts';
import {assertCanPlot} from './plots/renderPlot.ts';
import {AnswerScorer} from './prediction/answerScorer.ts';
import type {PredictionProgress} from './prediction/predictDataset.ts';
import type {PredictionData} from './prediction/readPrompts.ts';
import {CallbackList, type Evaluation, userCallbacks} from './run/callbacks.ts';
import {assertMemory} from './run/estimateMemory.ts';
import {assertCount, type FitArgs, type FitPlan, resolveFitArgs} from './run/fitArgs.ts';
import {TrainingHistory} from './run/trainingHistory.ts';
import {positionAt, TrainingRun} from './run/trainingRun.ts';
import type {LearningRateSchedule} from './steps/learningRateSchedule.ts';
import {type StepOutcome, TrainingStep} from './steps/trainingStep.ts';
import {warnOfFrozenMatrices} from './steps/warnOfFrozenMatrices.ts';
import {readMeasured, scalarValue} from './steps/windowGradients.ts';

export interface EvaluateArgs {
  /** Examples in a batch. Default 4. */
  batchSize?: number;
  /** Signal to stop: the evaluation ends after the current batch, with the signal's reason as an error. */
  signal?: AbortSignal;
  /** Called after each batch; `total` is unknown for a stream. */
  onProgress?: (progress: {done: number; total?: number}) => void;
}
const EVALUATE_OPTIONS = {
  batchSize: true,
  onProgress: true,
  signal: true,
} satisfies OptionNames<EvaluateArgs>;

/** Distance between the seeds of the updates of one step. */
const UPDATE_SEEDS = 7919;

/** Trains a model's trainable weights: the loop behind `Llama.fitDataset`, around {@link TrainingStep}. */
export class Trainer extends TrainingStep {
  /** History of the latest {@link fit}, even if it failed. */
  history?: TrainingHistory;

  /**
   * Trains on records, examples or batches. Records become examples with the model's tokenizer and chat template; if
   * they are in a list, this happens before training starts. Every window's loss is the sum over its labels divided by
   * their number. Resuming a finished run does not train: the model gets the final weights, and the files in the folder
   * do not change.
   *
   * @throws TfjsLoraError before any work when a setting or an example in a list cannot be used; `NON_FINITE` after too
   *   many consecutive steps that were not finite
   * @param held the lock on the output folder, if the caller already has it
   */
  async fit(data: RecordData, args: FitArgs = {}, held?: RunLock): Promise<TrainingHistory> {
    if (this.model.busyWith !== undefined) {
      throw new TfjsLoraError(
        'UNSUPPORTED',
        'fitDataset: expected one call at a time, but another one is running',
      );
    }
    this.model.busyWith = 'fitDataset';
    let lock: RunLock | undefined;
    try {
      const run = await this.open(data, args);
      warnOfFrozenMatrices(this.model);
      run.callbacks = this.callbacksOf(run);
      const {outputDir: path} = run.plan;
      const outputDir = path === undefined ? undefined : openRunFolder(path);
      if (outputDir !== undefined) {
        await assertSavable(run);
        if (run.plan.plotLoss) await assertCanPlot();
        if (!held && ranks().isFirst)
          lock = await holdOutputFolder(outputDir, outputWishes(run.plan), FIT_WORDS);
      }
      const checkpoint = await checkpointToResume(run.plan);
      if (checkpoint !== undefined) await resume(run, checkpoint);
      await assertSameRun(run); // the first rank changes files only once all have read them
      const {totalSteps, firstTrainerStep: firstStep} = run;
      if (outputDir !== undefined) {
        if (await isFinishedRun(outputDir, checkpoint, totalSteps)) {
          await restoreTrainedWeights(this.model, outputDir); // the best ones, if requested
          this.history = run.history;
          return run.history;
        }
        if (ranks().isFirst) await begin(run, outputDir, checkpoint);
      }
      const factorAt = this.scheduleOf({totalSteps, firstStep});
      this.history = run.history;
      this.model.stopTraining = false;
      try {
        await this.runEpochs(run, factorAt);
      } catch (error) {
        await run.callbacks.emitError(error);
        throw error;
      }
      return run.history;
    } finally {
      this.recorder.forget();
      lock?.release();
      this.model.busyWith = undefined;
    }
  }

  /**
   * Runs all checks that {@link fit} makes before its first step, except for the output folder, and changes nothing.
   * The model's weights need not be allocated.
   */
  async check(data: RecordData, args: FitArgs = {}): Promise<void> {
    const run = await this.open(data, args);
    if (run.plan.outputDir !== undefined) await assertSavable(run);
    if (run.plan.plotLoss) await assertCanPlot();
    const checkpoint = await checkpointToResume(run.plan);
    if (checkpoint !== undefined) await assertResumable(run, checkpoint);
  }

  /** Makes the examples of lists of records, and checks and counts all that it can before work begins. */
  private async open(data: RecordData, args: FitArgs): Promise<TrainingRun> {
    const resolved = resolveFitArgs(args, isReadOnce(data));
    const {rollouts, name} = this.loss;
    if (rollouts && ranks().size > 1) {
      throw new TfjsLoraError(
        'UNSUPPORTED',
        `fitDataset loss ${name}: expected one process, because the model answers prompts in it, got ${ranks().size}`,
      );
    }
    if (args.validationData !== undefined) this.assertEvaluable('fitDataset validationData');
    const plan = {...resolved, batchesPerStep: resolved.batchesPerStep * (rollouts?.windowsPerStep ?? 1)};
    const onProgress = tokenizingProgress(plan);
    const validationData =
      plan.validationData &&
      (await this.examplesOf(plan.validationData, 'fitDataset validationData', onProgress));
    const signal = ranks().agreed(plan.signal);
    const scorer = await this.scorerOf(plan);
    return this.plan(
      await this.examplesOf(data, 'fitDataset', onProgress),
      {...plan, validationData, signal},
      scorer,
    );
  }

  private assertEvaluable(call: string): void {
    const {rollouts, name} = this.loss;
    if (rollouts?.canEvaluate !== false) return;
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `${call}: expected a loss that can be evaluated, got ${name}. Evaluate answers with predictDataset.`,
    );
  }

  /** Prepares the scoring of answers to the validation data, if the settings ask for it. */
  private async scorerOf(plan: FitPlan): Promise<AnswerScorer | undefined> {
    const {predictWithGenerate, validationData, validationBatchSize: batchSize, metrics, generation} = plan;
    if (!predictWithGenerate) return undefined;
    if (this.loss.exampleKind !== 'answer' || this.loss.rollouts) {
      throw new TfjsLoraError(
        'UNSUPPORTED',
        `fitDataset predictWithGenerate: expected a loss of single answers, got ${this.loss.name}`,
      );
    }
    const options = {batchSize, ...generation};
    return AnswerScorer.open(this.model, validationData as PredictionData, options, metrics);
  }

  private plan(
    data: TrainingData,
    plan: FitPlan & {validationData?: TrainingData},
    scorer?: AnswerScorer,
  ): TrainingRun {
    const {epochs, initialEpoch, batchSize, batchesPerStep, validationData, maxSteps} = plan;
    const {rollouts, exampleKind, otherModels} = this.loss;
    const limits = this.limits();
    assertData(data, 'fitDataset', limits, epochs - initialEpoch);
    const evaluations = plan.evaluationSteps === undefined ? epochs - initialEpoch : Number.POSITIVE_INFINITY;
    if (validationData) assertData(validationData, 'fitDataset validationData', limits, evaluations);
    if (plan.groupByLength) orderedByLength(data, batchSize * batchesPerStep, ''); // throws for a stream
    if (plan.memoryBudget !== undefined)
      assertMemory(
        this.model,
        this.optimizer,
        data,
        {...plan, batchSize: batchSize * rowsPerExample(exampleKind) * (rollouts?.answersPerPrompt ?? 1)},
        plan.memoryBudget,
        otherModels,
        rollouts?.maxNewTokens,
      );
    const batchesPerEpoch = countBatches(data, batchSize);
    const stepsInData =
      batchesPerEpoch && (epochs - initialEpoch) * Math.ceil(batchesPerEpoch / batchesPerStep);
    const totalSteps = stepsInData && maxSteps ? Math.min(stepsInData, maxSteps) : (stepsInData ?? maxSteps);
    this.scheduleOf({totalSteps}); // throws if it needs a length that is unknown
    return new TrainingRun(
      this.model,
      this,
      data,
      plan,
      new TrainingHistory(),
      batchesPerEpoch,
      totalSteps,
      (run, isForced) => this.validate(run, isForced),
      scorer,
    );
  }

  private callbacksOf(run: TrainingRun): CallbackList {
    const {plan, totalSteps} = run;
    const {epochs, initialEpoch, batchSize, validationData} = plan;
    const {before, after} = trainingFeatures(run);
    return new CallbackList([...before, ...userCallbacks(plan.callbacks), ...after], this.model, {
      epochs,
      initialEpoch,
      batchSize,
      verbose: plan.verbose,
      steps: totalSteps,
      doValidation: validationData !== undefined,
    });
  }

  private async runEpochs(run: TrainingRun, factorAt: LearningRateSchedule): Promise<void> {
    const {plan, progress, history, callbacks, totalSteps} = run;
    await callbacks.emit('onTrainBegin', {...(totalSteps && {totalSteps}), step: progress.step});
    const isDue = plan.evaluationSteps !== undefined && progress.step % plan.evaluationSteps === 0;
    if (isDue && progress.step > 0) await this.validate(run); // the run may have been stopped during the evaluation
    while (progress.position.epoch < plan.epochs && !run.isOver) {
      const {epoch} = progress.position;
      await callbacks.emit('onEpochBegin', epoch);
      const isWhole = await this.runEpoch(run, factorAt);
      if (run.isInterrupted) break;
      const {lossSum, tokens, windows} = progress.position;
      if (windows === 0) {
        if (progress.step === 0) throw emptyData('fitDataset');
        warn(`fitDataset: the data was empty in epoch ${epoch}, so training ends before that epoch`);
        break;
      }
      const validation = plan.evaluatesEachEpoch ? await this.validate(run) : undefined;
      if (run.isStoppedInEvaluation) break; // the epoch ends once it is evaluated
      const logs = {loss: lossSum / tokens, ...(validation && validationLogs(run, validation))};
      history.addEpoch(epoch, logs);
      if (isWhole) progress.position = positionAt(epoch + 1);
      await callbacks.emit('onEpochEnd', epoch, logs);
    }
    const isComplete = !run.isInterrupted;
    if (isComplete && plan.evaluationStrategy === 'no') await this.validate(run);
    if (isComplete && !run.isStoppedInEvaluation) await callbacks.emit('onTrainComplete');
    history.isInterrupted = !isComplete || run.isStoppedInEvaluation;
    await callbacks.emit('onTrainEnd');
  }

  /**
   * Runs the remaining windows of the epoch.
   *
   * @returns whether it reached the end of the data
   */
  private async runEpoch(run: TrainingRun, factorAt: LearningRateSchedule): Promise<boolean> {
    const {plan, progress, callbacks} = run;
    const done = progress.position.windows;
    let index = 0;
    for await (const window of windowsOf(this.batches(run), plan.batchesPerStep)) {
      if (index++ < done) continue;
      const step = progress.step + 1;
      await callbacks.emit('onStepBegin', step);
      await callbacks.emit('onBatchBegin', step - 1);
      const begun = performance.now();
      const updates = await this.updatesOf(run, window);
      if (!updates) return false; // stopped before the answers were complete
      const outcome = await this.updateAll(run, updates, factorAt(this.steps));
      this.steps++;
      await this.log(run, outcome, window, updates, performance.now() - begun);
      if (plan.evaluationSteps && step % plan.evaluationSteps === 0) await this.validate(run);
      await nextTask(); // let notebooks and signals through before the checkpoint is written
      await callbacks.emit('onStepComplete', step);
      if (run.isOver) return false;
    }
    return true;
  }

  /**
   * Returns the windows of batches that a step updates the weights with, one after the other: the one it read, or those
   * of the model's answers to its prompts. Undefined if a stop was requested meanwhile.
   */
  private async updatesOf(run: TrainingRun, window: Batch[]): Promise<Batch[][] | undefined> {
    const {rollouts} = this.loss;
    if (!rollouts) return [window];
    const {signal, seed} = run.plan;
    const begun = performance.now();
    let shown = 0;
    const onProgress = async (progress: GenerateProgress) => {
      const seconds = (performance.now() - begun) / 1000;
      if (seconds - shown < 1) return;
      shown = seconds;
      await run.callbacks.emit('onPredict', {...progress, seconds}, run.progress.step);
    };
    const options = {seed: `${seed}/${this.steps}`, signal, onProgress};
    const rollout = await this.rollOut(window, run.plan, options).catch((error) => {
      if (!signal?.aborted || error !== signal.reason) throw error;
    });
    if (rollout) await run.callbacks.emit('onAnswers', rollout.answers, run.progress.step + 1);
    return rollout?.updates;
  }

  private rollOut(
    window: Batch[],
    {padTokenId, gradientAccumulationSteps: batchesPerStep = 1}: FitArgs,
    given: Pick<RolloutOptions, 'seed' | 'signal' | 'onProgress' | 'isEvaluation'>,
  ): Promise<Rollout> {
    this.loss.assertFits(this.model);
    this.recorder.forget();
    const options = {...given, batchesPerStep, padTokenId: this.padTokenId(padTokenId)};
    return this.loss.rollouts!.rollOut(
      this.model as LossModel as RolloutModel,
      window as PromptBatch[],
      options,
    );
  }

  /** Updates the weights with each window, and describes them as one step. */
  private async updateAll(run: TrainingRun, updates: Batch[][], factor: number): Promise<StepOutcome> {
    const {plan, callbacks} = run;
    const outcomes: StepOutcome[] = [];
    for (const [i, window] of updates.entries()) {
      if (i > 0) await tf.nextFrame();
      const seed = plan.seed + i * UPDATE_SEEDS;
      const outcome = await this.step(window, factor, seed, (compiled, total) =>
        callbacks.emit('onCompile', compiled, total),
      );
      outcomes.push(outcome);
      if (outcome.isSkipped) break;
    }
    return outcomes.length === 1 ? outcomes[0] : meanOf(outcomes);
  }

  /** Yields the epoch's batches, in an order that depends only on the seed and the epoch. */
  private batches({data, plan, progress}: TrainingRun): AsyncGenerator<Batch> {
    const {epoch} = progress.position;
    const seed = `${plan.seed}/${epoch}`;
    const {batchSize, groupByLength, batchesPerStep} = plan;
    return batchesOf(
      groupByLength ? orderedByLength(data, batchSize * batchesPerStep, seed) : data,
      {
        ...this.limits(),
        batchSize,
        padTokenId: this.padTokenId(plan.padTokenId),
        ...(this.loss.rollouts && {join: promptBatch}),
        shuffleSeed: plan.shuffle && !groupByLength ? seed : undefined,
      },
      this.reader('fitDataset'),
    );
  }

  private padTokenId(given: number | undefined): number {
    return given ?? Math.max(0, this.model.config.padTokenId ?? 0); // −1: none, in old configs
  }

  /** Counts a step that read a window, and reports it. */
  private async log(
    run: TrainingRun,
    outcome: StepOutcome,
    window: Batch[],
    updates: Batch[][],
    ms: number,
  ): Promise<void> {
    const {isSkipped, measured, ...result} = outcome;
    const [rows] = sizeOf(window);
    const [, positions] = sizeOf(updates.flat());
    run.count(outcome, window.length, rows / rowsPerExample(this.loss.exampleKind), positions);
    const {totalSteps, secondsLeft, seconds} = run;
    const {step, epoch, tokensSeen} = run.progress;
    const log = {
      ...result,
      ...(isSkipped && {isSkipped}),
      step,
      ...(totalSteps && {totalSteps}),
      epoch,
      tokensPerSecond: (1000 * positions) / ms,
      tokensSeen,
      seconds,
      ...(secondsLeft !== undefined && {secondsLeft}),
    };
    run.history.steps.push(log);
    await run.callbacks.emitStepEnd(log);
  }

  /** Evaluates, unless that was done after this very step; undefined without data, or if it was stopped. */
  private async validate(run: TrainingRun, isForced = false): Promise<Evaluation | undefined> {
    const {plan, progress, history, callbacks} = run;
    if (!plan.validationData) return undefined;
    const {step} = progress;
    if (progress.evaluation?.step === step && !isForced) return progress.evaluation;
    this.recorder.forget();
    const signal = isForced ? undefined : plan.signal; // a forced evaluation ends the run
    const evaluation = await this.evaluateRun(run, signal).catch((error) => {
      if (!signal?.aborted || error !== signal.reason) throw error;
      run.isStoppedInEvaluation = true;
    });
    if (!evaluation) return undefined;
    progress.evaluation = {...evaluation, step};
    history.evaluations.push(progress.evaluation);
    await callbacks.emit('onEvaluate', evaluation, step);
    return evaluation;
  }

  /** Computes loss and perplexity over the validation data, and the scores of the answers if the settings ask for it. */
  private async evaluateRun(run: TrainingRun, signal?: AbortSignal): Promise<Evaluation> {
    const {plan, progress, callbacks, scorer} = run;
    const {validationData, validationBatchSize: batchSize} = plan;
    const evaluation = await this.evaluate(validationData!, {batchSize, signal});
    if (!scorer) return evaluation;
    const onProgress = (done: PredictionProgress) => callbacks.emit('onPredict', done, progress.step);
    const scores = await scorer.score({signal, onProgress});
    return {...evaluation, metrics: {...evaluation.metrics, ...scores}};
  }

  /**
   * Computes loss and perplexity over a dataset, without gradients and dropout.
   *
   * @throws the signal's reason once it is aborted
   */
  async evaluate(records: RecordData, args: EvaluateArgs = {}): Promise<Evaluation> {
    assertKnownOptions('evaluateDataset', args, EVALUATE_OPTIONS);
    this.assertEvaluable('evaluateDataset');
    this.recorder.forget();
    const {batchSize = 4, onProgress} = args;
    const signal = ranks().agreed(args.signal);
    assertCount('evaluateDataset batchSize', batchSize);
    const limits = this.limits();
    const data = await this.examplesOf(records, 'evaluateDataset');
    assertData(data, 'evaluateDataset', limits);
    const total = countBatches(data, batchSize);
    const begun = performance.now();
    const {loss: objective} = this;
    objective.assertFits(this.model);
    let [sum, tokens, examples, batches] = [0, 0, 0, 0];
    const described: tf.Tensor1D[] = [];
    try {
      const {rollouts} = objective;
      const join = rollouts && promptBatch;
      const each = batchesOf(data, {batchSize, ...limits, join}, this.reader('evaluateDataset'));
      for await (const read of windowsOf(each, ranks().size)) {
        const given = {seed: `evaluation/${batches}`, signal, isEvaluation: true};
        const round = rollouts ? (await this.rollOut(read, {}, given)).updates[0] : read;
        const [batch] = ranks().share(round); // of the last round, maybe none
        const computed = batch && this.lossOf(batch);
        if (computed?.metrics) described.push(computed.metrics);
        const [loss] = await ranks().sum([computed ? await scalarValue(computed.loss) : 0]);
        sum += loss;
        for (const batch of round) tokens += objective.count(this.model, batch);
        examples += sizeOf(read)[0] / rowsPerExample(objective.exampleKind);
        batches += round.length;
        onProgress?.({done: batches, total});
        await nextTask(); // let signals through
        signal?.throwIfAborted();
      }
      if (tokens === 0) throw emptyData('evaluateDataset');
      const loss = sum / tokens;
      const seconds = (performance.now() - begun) / 1000;
      const perplexity = objective === CROSS_ENTROPY ? Math.exp(loss) : Number.NaN;
      const metrics = metricsOf(objective, await readMeasured(objective, described, batches));
      return {loss, perplexity, tokens, examples, batches, seconds, ...(metrics && {metrics})};
    } finally {
      tf.dispose(described);
    }
  }

  /** Computes a batch's loss without gradients and dropout. */
  private lossOf(batch: Batch): BatchLoss {
    return tf.tidy(() => {
      const constants = this.loss.constants?.(this.model, batch);
      return {...this.loss.compute(this.model, batch, {}, constants)} as BatchLoss & tf.TensorContainerObject;
    });
  }

  /** Returns data whose lists hold no records any more; the items of streams are read as they arrive. */
  private async examplesOf(
    data: RecordData,
    call: string,
    onProgress?: RecordOptions['onProgress'],
  ): Promise<TrainingData> {
    if (data instanceof RecordDataset) return this.loss.rollouts ? promptsOf(data) : data.examples;
    if (!Array.isArray(data) || !data.some(isRecord)) return data as TrainingData;
    if (this.loss.rollouts) return data.map(this.reader(call));
    return new RecordEncoder(call, this.model.tokenizer, {onProgress}).encodeAll<Item>(data);
  }

  /** Returns a function that makes examples of a stream's records. */
  private reader(call: string): (item: Item | TrainingRecord, index: number) => Item {
    let encoder: RecordEncoder | undefined;
    return (item, index) => {
      if (!isRecord(item)) return item;
      encoder ??= new RecordEncoder(call, this.model.tokenizer);
      if (!this.loss.rollouts) return encoder.encode(item, index);
      const {promptIds} = encoder.encodeQuestion(item, index);
      return {inputIds: promptIds, record: item, stopIds: encoder.stopIds} as Item;
    };
  }

  private limits(): {maxLength: number; vocabSize: number; exampleKind: ExampleKind} {
    const {maxPositionEmbeddings, vocabSize} = this.model.config;
    return {maxLength: maxPositionEmbeddings, vocabSize, exampleKind: this.loss.exampleKind};
  }
}

/** Returns the questions of records as prompts, for the model to answer in training. */
function promptsOf(data: RecordDataset): Item[] {
  return data
    .prompts()
    .map(({promptIds, ...record}) => ({inputIds: promptIds, record, stopIds: data.stopIds}));
}

/** Describes several updates as one step. */
function meanOf(outcomes: StepOutcome[]): StepOutcome {
  const counted = outcomes.filter(({isSkipped}) => !isSkipped);
  if (counted.length === 0) return outcomes[0];
  const mean = (numberOf: (outcome: StepOutcome) => number) =>
    counted.reduce((sum, outcome) => sum + numberOf(outcome), 0) / counted.length;
  const names = Object.keys(counted[0].metrics ?? {});
  return {
    ...counted[0],
    loss: mean(({loss}) => loss),
    gradNorm: mean(({gradNorm}) => gradNorm),
    ...(counted[0].metrics && {
      metrics: Object.fromEntries(names.map((name) => [name, mean(({metrics}) => metrics![name])])),
      measured: counted.map(({measured}) => measured).reduce(addMeasured),
    }),
    memoryBytes: Math.max(...counted.map(({memoryBytes}) => memoryBytes)),
  };
}

function outputWishes({overwriteOutputDir: overwrite, resumeFromCheckpoint: resume}: FitPlan): OutputWishes {
  return {overwrite, resume};
}

/** Prepares the folder for a run: removes an earlier run, or marks a resumed one as unfinished. */
async function begin(
  run: TrainingRun,
  outputDir: RunFolder,
  checkpoint: RunFolder | undefined,
): Promise<void> {
  if (checkpoint === undefined) {
    await clearOutputFolder(outputDir);
    return;
  }
  await markUnfinished(outputDir);
  await leaveLaterCheckpoints(run, outputDir, checkpoint);
}

/** Returns an evaluation under Keras's names. */
function validationLogs({scoreNames}: TrainingRun, {loss, metrics}: Evaluation): Record<string, number> {
  const scores = scoreNames.map((name) => [`val_${name}`, metrics![name]]);
  return {val_loss: loss, ...Object.fromEntries(scores)};
}

async function* windowsOf(batches: AsyncIterable<Batch>, size: number): AsyncGenerator<Batch[]> {
  let window: Batch[] = [];
  for await (const batch of batches) {
    window.push(batch);
    if (window.length < size) continue;
    yield window;
    window = [];
  }
  if (window.length > 0) yield window;
}

/** Returns the number of rows and positions in batches. */
function sizeOf(batches: Batch[]): [rows: number, positions: number] {
  let [rows, positions] = [0, 0];
  for (const {inputIds} of batches) {
    const [height, width] =
      inputIds instanceof tf.Tensor ? inputIds.shape : [inputIds.length, inputIds[0].length];
    rows += height;
    positions += height * width;
  }
  return [rows, positions];
}
