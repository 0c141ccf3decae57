import * as tf from '@tensorflow/tfjs';
import type {Batch} from '../../models/batchLoss.ts';
import type {CausalLM} from '../../models/causalLM.ts';
import {TfjsLoraError} from '../../quant/errors.ts';
import {assertExample, batchesOf, countBatches, isBatch, type TrainingData} from '../data/batches.ts';
import {AdamW} from '../optimizers/adamW.ts';
import {type CallbackLike, CallbackList, type Evaluation, type StepRecord} from './callbacks.ts';
import {clipByGlobalNorm, globalNorm} from './clipByGlobalNorm.ts';
import {
  type LearningRateSchedule,
  learningRateSchedule,
  type ScheduleArgs,
  type ScheduleName,
} from './learningRateSchedule.ts';
import {type ProgressStream, progressBar} from './progressBar.ts';
import {TrainingHistory} from './trainingHistory.ts';

export interface CompileArgs {
  /** Any `tf.Optimizer`. Default `new AdamW({learningRate: 1e-4})`. */
  optimizer?: tf.Optimizer;
  /** By transformers' name, with settings, or a function. Default constant. Needs an optimizer with `learningRate`. */
  schedule?: ScheduleName | ({name: ScheduleName} & ScheduleArgs) | LearningRateSchedule;
  /** Clip the global norm of the gradients to this. Default none. */
  maxGradNorm?: number;
}

export interface FitArgs {
  /** Default 1. */
  epochs?: number;
  /** Default 4. */
  batchSize?: number;
  /** Batches in one optimizer step. Default 1. */
  gradientAccumulationSteps?: number;
  /** Stop after so many steps. Default none. */
  maxSteps?: number;
  /** Shuffle a list of examples anew each epoch. Default true. */
  shuffle?: boolean;
  /** Of the shuffle and of dropout. Default 0. */
  seed?: number;
  /** Evaluated after each epoch, and every `evaluationSteps` where given. */
  validationData?: TrainingData;
  evaluationSteps?: number;
  /** Default `batchSize`. */
  validationBatchSize?: number;
  callbacks?: CallbackLike | CallbackLike[];
  /** 1 shows progress on `progressStream`, 0 is silent. Default 1. */
  verbose?: number;
  /** Default the process's standard error. */
  progressStream?: ProgressStream;
  /** Default the model's, else 0. */
  padTokenId?: number;
}

export interface StepResult {
  loss: number;
  tokens: number;
  gradNorm: number;
  learningRate: number;
}

/** Gradients of one accumulation window. */
export interface WindowGradients {
  /** Mean over the labels that count, over the whole window. */
  loss: number;
  /** Labels that counted. */
  tokens: number;
  /** By the weight's key in a PEFT file. The caller disposes them. */
  gradients: tf.NamedTensorMap;
}

/** Trains a model's trainable weights: the loop behind `Llama.compile` and `Llama.fitDataset`. */
export class Trainer {
  optimizer: tf.Optimizer = new AdamW({learningRate: 1e-4});
  /**
   * Runs between gradients and update, on gradients keyed as in a PEFT file; it may change them in place. The seam
   * where data-parallel training all-reduces.
   */
  onGradients?: (window: WindowGradients) => void | Promise<void>;
  private schedule?: CompileArgs['schedule'];
  private maxGradNorm?: number;
  private baseLearningRate?: number;
  private steps = 0;

  constructor(private readonly model: CausalLM) {}

  /** Sets optimizer, schedule and clipping; the count of steps starts anew. */
  compile({optimizer = new AdamW({learningRate: 1e-4}), schedule, maxGradNorm}: CompileArgs): void {
    const learningRate = (optimizer as {learningRate?: unknown}).learningRate;
    if (schedule !== undefined && typeof learningRate !== 'number') {
      throw new TfjsLoraError(
        'UNSUPPORTED',
        `compile schedule: expected an optimizer with a learningRate to change, got ${optimizer.getClassName()}. ` +
          'Use AdamW, or leave the schedule out.',
      );
    }
    if (maxGradNorm !== undefined && !(maxGradNorm > 0)) {
      throw new TfjsLoraError('INVALID_ARGUMENT', `compile maxGradNorm: expected a number above 0, got ${maxGradNorm}`);
    }
    this.optimizer = optimizer;
    this.schedule = schedule;
    this.maxGradNorm = maxGradNorm;
    this.baseLearningRate = learningRate as number | undefined;
    this.steps = 0;
  }

  /**
   * Loss and gradients of a batch, or of several micro-batches as one window: the sum of the losses over the count of
   * all labels, never a mean of means.
   */
  async computeGradients(batches: Batch | Batch[], seed = 0): Promise<WindowGradients> {
    const window = [batches].flat();
    const tokens = window.reduce((count, batch) => count + this.model.targetCount(batch), 0);
    const parameters = [...this.model.trainableParameters()];
    if (parameters.length === 0) {
      throw new TfjsLoraError('INVALID_ARGUMENT', 'training: expected trainable weights, got none. Call applyLoRA() first.');
    }
    const variables = parameters.map(([, variable]) => variable);
    let lossSum = 0;
    const sums: tf.NamedTensorMap = {};
    try {
      for (const [i, batch] of window.entries()) {
        const run = () => this.model.lossSum(batch, {training: true, seed: seed + i}).div(tokens) as tf.Scalar;
        const {value, grads} = tf.variableGrads(run, variables);
        for (const [key, variable] of parameters) {
          const [previous, gradient] = [sums[key], grads[variable.name]];
          sums[key] = previous ? previous.add(gradient) : gradient;
          if (previous) tf.dispose([previous, gradient]);
        }
        lossSum += (await value.data())[0];
        value.dispose();
      }
    } catch (error) {
      tf.dispose(sums);
      throw error;
    }
    return {loss: lossSum, tokens, gradients: sums};
  }

  /**
   * One optimizer step on a batch, or on several micro-batches as one window.
   *
   * @throws TfjsLoraError `NON_FINITE` when loss or gradient is not finite; no weight has changed then
   */
  async trainOnBatch(batches: Batch | Batch[], totalSteps?: number, seed = this.steps): Promise<StepResult> {
    const learningRate = this.scheduledLearningRate(totalSteps);
    const window = await this.computeGradients(batches, seed * 1000);
    const {loss, tokens} = window;
    try {
      await this.onGradients?.(window);
      const norm = globalNorm(Object.values(window.gradients));
      const gradNorm = (await norm.data())[0];
      norm.dispose();
      if (!Number.isFinite(loss) || !Number.isFinite(gradNorm)) {
        throw new TfjsLoraError(
          'NON_FINITE',
          `training step ${this.steps + 1}: expected numbers, got loss ${loss}, gradient norm ${gradNorm}. ` +
            'The weights are as before the step; lower the learning rate or check the data.',
        );
      }
      this.update(window.gradients, gradNorm);
      this.steps++;
      return {loss, tokens, gradNorm, learningRate};
    } finally {
      tf.dispose(window.gradients);
    }
  }

  private update(gradients: tf.NamedTensorMap, gradNorm: number): void {
    tf.tidy(() => {
      const clipped =
        this.maxGradNorm === undefined ? gradients : clipByGlobalNorm(gradients, gradNorm, this.maxGradNorm);
      const parameters = this.model.trainableParameters();
      const byVariable = Object.entries(clipped).map(([key, gradient]) => [parameters.get(key)!.name, gradient]);
      this.optimizer.applyGradients(Object.fromEntries(byVariable));
    });
  }

  private scheduledLearningRate(totalSteps?: number): number {
    const optimizer = this.optimizer as tf.Optimizer & {learningRate?: number};
    if (this.schedule !== undefined && this.baseLearningRate !== undefined) {
      const {schedule} = this;
      const factorAt =
        typeof schedule === 'function'
          ? schedule
          : typeof schedule === 'string'
            ? learningRateSchedule(schedule, {totalSteps})
            : learningRateSchedule(schedule.name, {totalSteps, ...schedule});
      optimizer.learningRate = this.baseLearningRate * factorAt(this.steps);
    }
    return optimizer.learningRate ?? Number.NaN;
  }

  /**
   * Trains on examples or batches. Every window's loss is the sum over its labels over their count.
   *
   * @throws TfjsLoraError before any work when a list holds an example that cannot be used
   */
  async fit(data: TrainingData, args: FitArgs = {}): Promise<TrainingHistory> {
    const {epochs = 1, batchSize = 4, gradientAccumulationSteps = 1, shuffle = true, seed = 0, maxSteps} = args;
    const {maxPositionEmbeddings: maxLength, padTokenId} = this.model.config;
    const options = {batchSize, maxLength, padTokenId: args.padTokenId ?? padTokenId ?? 0};
    assertCounts({epochs, batchSize, gradientAccumulationSteps});
    assertExamples(data, maxLength);
    const batchesPerEpoch = countBatches(data, batchSize);
    const stepsPerEpoch = batchesPerEpoch && Math.ceil(batchesPerEpoch / gradientAccumulationSteps);
    const planned = stepsPerEpoch === undefined ? maxSteps : Math.min(epochs * stepsPerEpoch, maxSteps ?? Number.POSITIVE_INFINITY);
    const totalSteps = planned === undefined ? undefined : this.steps + planned;
    const lastStep = maxSteps === undefined ? Number.POSITIVE_INFINITY : this.steps + maxSteps;

    const history = new TrainingHistory();
    const callbacks = new CallbackList([...progressOf(args), ...[args.callbacks ?? []].flat()], this.model);
    const started = performance.now();
    const firstStep = this.steps;
    this.model.stopTraining = false;
    await callbacks.emit('onTrainBegin', {totalSteps: planned});
    for (let epoch = 0; epoch < epochs && !this.isOver(lastStep); epoch++) {
      await callbacks.emit('onEpochBegin', epoch);
      let [lossSum, tokens, batchesDone] = [0, 0, 0];
      const shuffleSeed = shuffle ? `${seed}/${epoch}` : undefined;
      for await (const window of windowsOf(batchesOf(data, {...options, shuffleSeed}), gradientAccumulationSteps)) {
        const begun = performance.now();
        const result = await this.trainOnBatch(window, totalSteps, seed + this.steps);
        batchesDone += window.length;
        lossSum += result.loss * result.tokens;
        tokens += result.tokens;
        const record: StepRecord = {
          ...result,
          step: this.steps - firstStep,
          totalSteps: planned,
          epoch: epoch + (batchesPerEpoch ? batchesDone / batchesPerEpoch : 0),
          tokensPerSecond: (1000 * window.reduce((sum, batch) => sum + positionsOf(batch), 0)) / (performance.now() - begun),
          seconds: (performance.now() - started) / 1000,
        };
        history.steps.push(record);
        await callbacks.emit('onStepEnd', record);
        await callbacks.emit('onBatchEnd', record.step - 1, record);
        if (args.evaluationSteps && record.step % args.evaluationSteps === 0) await this.validate(args, history, callbacks);
        await new Promise((resume) => setTimeout(resume)); // let notebooks and signals in
        if (this.isOver(lastStep)) break;
      }
      if (batchesDone === 0) {
        throw new TfjsLoraError('INVALID_ARGUMENT', 'fitDataset: expected at least one example, got an empty dataset');
      }
      const validation = await this.validate(args, history, callbacks);
      const logs = {loss: lossSum / tokens, ...(validation && {val_loss: validation.loss})};
      history.addEpoch(epoch, logs);
      await callbacks.emit('onEpochEnd', epoch, logs);
    }
    await callbacks.emit('onTrainEnd');
    return history;
  }

  private isOver(lastStep: number): boolean {
    return this.model.stopTraining || this.steps >= lastStep;
  }

  private async validate(args: FitArgs, history: TrainingHistory, callbacks: CallbackList): Promise<Evaluation | undefined> {
    if (!args.validationData) return undefined;
    const step = history.steps.length;
    const last = history.evaluations.at(-1);
    if (last?.step === step) return last;
    const evaluation = await this.evaluate(args.validationData, {batchSize: args.validationBatchSize ?? args.batchSize});
    history.evaluations.push({...evaluation, step});
    await callbacks.emit('onEvaluate', evaluation, step);
    return evaluation;
  }

  /** Loss and perplexity over a dataset, without gradients. */
  async evaluate(data: TrainingData, {batchSize = 4}: {batchSize?: number} = {}): Promise<Evaluation> {
    const {maxPositionEmbeddings: maxLength} = this.model.config;
    let [sum, tokens] = [0, 0];
    for await (const batch of batchesOf(data, {batchSize, maxLength})) {
      const loss = this.model.lossSum(batch);
      sum += (await loss.data())[0];
      loss.dispose();
      tokens += this.model.targetCount(batch);
    }
    if (tokens === 0) {
      throw new TfjsLoraError('INVALID_ARGUMENT', 'evaluateDataset: expected at least one example, got an empty dataset');
    }
    return {loss: sum / tokens, perplexity: Math.exp(sum / tokens), tokens};
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

function assertExamples(data: TrainingData, maxLength: number): void {
  if (!Array.isArray(data)) return;
  for (const [index, item] of data.entries()) if (!isBatch(item)) assertExample(item, index, maxLength);
}

function assertCounts(counts: Record<string, number>): void {
  for (const [name, count] of Object.entries(counts)) {
    if (Number.isInteger(count) && count > 0) continue;
    throw new TfjsLoraError('INVALID_ARGUMENT', `fitDataset ${name}: expected a positive integer, got ${count}`);
  }
}

function progressOf({verbose = 1, progressStream}: FitArgs): CallbackLike[] {
  const stream = progressStream ?? (globalThis as {process?: {stderr?: ProgressStream}}).process?.stderr;
  return verbose > 0 && stream ? [progressBar(stream)] : [];
}
