import * as tf from '@tensorflow/tfjs';
import type {Batch} from '../../models/batchLoss.ts';
import {TfjsLoraError} from '../../quant/errors.ts';
import {warn} from '../../quant/warn.ts';
import {
  assertData,
  batchesOf,
  countBatches,
  emptyData,
  isReadOnce,
  type TrainingData,
} from '../data/batches.ts';
import {CallbackList, type Evaluation} from './callbacks.ts';
import {assertCount, type FitArgs, type FitPlan, resolveFitArgs} from './fitArgs.ts';
import type {LearningRateSchedule} from './learningRateSchedule.ts';
import {defaultProgressStream, progressBar} from './progressBar.ts';
import {TrainingHistory} from './trainingHistory.ts';
import {TrainingStep} from './trainingStep.ts';
import {scalarValue} from './windowGradients.ts';

export interface EvaluateArgs {
  /** Default 4. */
  batchSize?: number;
}

/** One call of {@link Trainer.fit}. */
interface Run {
  data: TrainingData;
  plan: FitPlan;
  /** Batches in an epoch, where known. */
  batchesPerEpoch?: number;
  /** Steps of the whole run, where known. */
  totalSteps?: number;
  factorAt: LearningRateSchedule;
  history: TrainingHistory;
  callbacks: CallbackList;
  started: number;
}

/** Trains a model's trainable weights: the loop behind `Llama.fitDataset`, around {@link TrainingStep}. */
export class Trainer extends TrainingStep {
  /** Of the latest {@link fit}, also of one that broke off. */
  history?: TrainingHistory;
  private isFitting = false;

  /**
   * Trains on examples or batches. Every window's loss is the sum over its labels over their count.
   *
   * @throws TfjsLoraError before any work when a list holds an example that cannot be used; `NON_FINITE` with the weights
   *   as before the step that failed
   */
  async fit(data: TrainingData, args: FitArgs = {}): Promise<TrainingHistory> {
    if (this.isFitting) {
      throw new TfjsLoraError(
        'UNSUPPORTED',
        'fitDataset: expected one call at a time, another one still runs',
      );
    }
    this.isFitting = true;
    try {
      const run = this.plan(data, resolveFitArgs(args, isReadOnce(data)));
      this.history = run.history;
      this.model.stopTraining = false;
      try {
        await this.runEpochs(run);
      } catch (error) {
        await run.callbacks.emitError(error);
        throw error;
      }
      return run.history;
    } finally {
      this.isFitting = false;
    }
  }

  /** All that can be checked and counted before work begins. */
  private plan(data: TrainingData, plan: FitPlan): Run {
    const {epochs, initialEpoch, batchSize, gradientAccumulationSteps, validationData, maxSteps} = plan;
    const limits = this.limits();
    assertData(data, 'fitDataset', limits, epochs - initialEpoch);
    const evaluations = plan.evaluationSteps === undefined ? epochs - initialEpoch : Number.POSITIVE_INFINITY;
    if (validationData) assertData(validationData, 'fitDataset validationData', limits, evaluations);
    const batchesPerEpoch = countBatches(data, batchSize);
    const stepsInData =
      batchesPerEpoch && (epochs - initialEpoch) * Math.ceil(batchesPerEpoch / gradientAccumulationSteps);
    const totalSteps = stepsInData && maxSteps ? Math.min(stepsInData, maxSteps) : (stepsInData ?? maxSteps);
    const {verbose, progressStream = defaultProgressStream()} = plan;
    const progress = verbose > 0 && progressStream ? [progressBar(progressStream)] : [];
    const callbacks = new CallbackList([...progress, ...[plan.callbacks ?? []].flat()], this.model, {
      epochs,
      initialEpoch,
      batchSize,
      verbose,
      steps: totalSteps,
      doValidation: validationData !== undefined,
    });
    return {
      data,
      plan,
      batchesPerEpoch,
      totalSteps,
      factorAt: this.scheduleOf({totalSteps}),
      history: new TrainingHistory(),
      callbacks,
      started: performance.now(),
    };
  }

  private async runEpochs(run: Run): Promise<void> {
    const {plan, history, callbacks, totalSteps} = run;
    await callbacks.emit('onTrainBegin', {...(totalSteps && {totalSteps})});
    for (let epoch = plan.initialEpoch; epoch < plan.epochs && !this.isOver(run); epoch++) {
      await callbacks.emit('onEpochBegin', epoch);
      const loss = await this.runEpoch(run, epoch);
      if (loss === undefined) {
        if (history.steps.length === 0) throw emptyData('fitDataset');
        warn(`fitDataset: the data gave nothing in epoch ${epoch}, so training ends before it`);
        break;
      }
      const validation = await this.validate(run);
      const logs = {loss, ...(validation && {val_loss: validation.loss})};
      history.addEpoch(epoch, logs);
      await callbacks.emit('onEpochEnd', epoch, logs);
    }
    await callbacks.emit('onTrainEnd');
  }

  /** @returns the epoch's mean loss over its labels; undefined when there was no data */
  private async runEpoch(run: Run, epoch: number): Promise<number | undefined> {
    const {data, plan, batchesPerEpoch, totalSteps, factorAt, history, callbacks, started} = run;
    const options = {
      ...this.limits(),
      batchSize: plan.batchSize,
      padTokenId: plan.padTokenId ?? Math.max(0, this.model.config.padTokenId ?? 0), // −1: none, in old configs
      shuffleSeed: plan.shuffle ? `${plan.seed}/${epoch}` : undefined,
    };
    let [lossSum, tokens, batchesDone] = [0, 0, 0];
    for await (const window of windowsOf(batchesOf(data, options), plan.gradientAccumulationSteps)) {
      const step = history.steps.length + 1;
      await callbacks.emit('onStepBegin', step);
      await callbacks.emit('onBatchBegin', step - 1);
      const begun = performance.now();
      const result = await this.step(window, factorAt(this.steps), plan.seed);
      const positions = window.reduce((sum, batch) => sum + positionsOf(batch), 0);
      batchesDone += window.length;
      lossSum += result.loss * result.tokens;
      tokens += result.tokens;
      const record = {
        ...result,
        step,
        ...(totalSteps && {totalSteps}),
        epoch: epoch + (batchesPerEpoch ? batchesDone / batchesPerEpoch : 0),
        tokensPerSecond: (1000 * positions) / (performance.now() - begun),
        seconds: (performance.now() - started) / 1000,
      };
      history.steps.push(record);
      await callbacks.emitStepEnd(record);
      if (plan.evaluationSteps && step % plan.evaluationSteps === 0) await this.validate(run);
      await tf.nextFrame(); // let notebooks and signals in
      if (this.isOver(run)) break;
    }
    return tokens === 0 ? undefined : lossSum / tokens;
  }

  private isOver({history, plan}: Run): boolean {
    return this.model.stopTraining || history.steps.length >= (plan.maxSteps ?? Number.POSITIVE_INFINITY);
  }

  /** Evaluates, unless that was done after this very step. */
  private async validate({plan, history, callbacks}: Run): Promise<Evaluation | undefined> {
    if (!plan.validationData) return undefined;
    const step = history.steps.length;
    const last = history.evaluations.at(-1);
    if (last?.step === step) return last;
    const evaluation = await this.evaluate(plan.validationData, {batchSize: plan.validationBatchSize});
    history.evaluations.push({...evaluation, step});
    await callbacks.emit('onEvaluate', evaluation, step);
    return evaluation;
  }

  /** Loss and perplexity over a dataset, without gradients and dropout. */
  async evaluate(data: TrainingData, {batchSize = 4}: EvaluateArgs = {}): Promise<Evaluation> {
    assertCount('evaluateDataset batchSize', batchSize);
    const limits = this.limits();
    assertData(data, 'evaluateDataset', limits);
    let [sum, tokens] = [0, 0];
    for await (const batch of batchesOf(data, {batchSize, ...limits})) {
      sum += await scalarValue(this.model.lossSum(batch));
      tokens += this.model.targetCount(batch);
      await tf.nextFrame();
    }
    if (tokens === 0) throw emptyData('evaluateDataset');
    return {loss: sum / tokens, perplexity: Math.exp(sum / tokens), tokens};
  }

  private limits(): {maxLength: number; vocabSize: number} {
    const {maxPositionEmbeddings, vocabSize} = this.model.config;
    return {maxLength: maxPositionEmbeddings, vocabSize};
  }
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

function positionsOf({inputIds}: Batch): number {
  return inputIds instanceof tf.Tensor ? inputIds.size : inputIds.length * inputIds[0].length;
}
