import * as tf from '@tensorflow/tfjs';
import type {CompileProgress} from '../../../layers/ops/backendTraits.ts';
import {compileShaders} from '../../../layers/ops/compileShaders.ts';
import {globalNorm} from '../../../layers/ops/globalNorm.ts';
import {assertBatch} from '../../../models/assertBatch.ts';
import {assertIdle} from '../../../models/assertIdle.ts';
import type {Batch} from '../../../models/batchLoss.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {assertKnownOptions, type OptionNames} from '../../../quant/knownOptions.ts';
import {show} from '../../../quant/show.ts';
import {CROSS_ENTROPY, type Measured, type TrainingLoss} from '../losses/trainingLoss.ts';
import {AdamW} from '../optimizers/adamW.ts';
import {learningRateOf, withLearningRate} from '../optimizers/learningRate.ts';
import {NamedStateOptimizer, type PreparedStep} from '../optimizers/namedStateOptimizer.ts';
import {type OptimizerName, optimizerByName} from '../optimizers/optimizerByName.ts';
import {clipByGlobalNorm} from './clipByGlobalNorm.ts';
import {
  type LearningRateSchedule,
  learningRateSchedule,
  type ScheduleArgs,
  type ScheduleName,
} from './learningRateSchedule.ts';
import {PassRecorder} from './passRecorder.ts';
import type {TrainableModel} from './trainableModel.ts';
import {warnOfFrozenMatrices} from './warnOfFrozenMatrices.ts';
import {scalarValue, type UnreadGradients, type WindowGradients, windowGradients} from './windowGradients.ts';

export interface CompileArgs {
  /** Any `tf.Optimizer`, or the name of one. Default `new AdamW({learningRate: 1e-4})`. */
  optimizer?: tf.Optimizer | OptimizerName;
  /** What to minimize: {@link preferenceLoss}, {@link ktoLoss}, {@link rewardLoss}. Default: cross-entropy over the labels. */
  loss?: TrainingLoss;
  /**
   * Factor on the optimizer's learning rate: transformers' name, with or without settings, or a function. It counts the
   * steps since `compile`; a schedule whose `totalSteps` is left to `fitDataset` counts the steps of that call.
   * Default: constant.
   */
  schedule?: ScheduleName | ({name: ScheduleName} & ScheduleArgs) | LearningRateSchedule;
  /** Maximum global norm of the gradients; larger ones are clipped. Default: no clipping. */
  maxGradNorm?: number;
  /**
   * Whether all shaders of a step are compiled together before the first step, in a pass that computes nothing: see
   * `compileShaders`. No effect on backends without shaders. Default true.
   */
  compileShaders?: boolean;
}
const COMPILE_OPTIONS = {
  optimizer: true,
  loss: true,
  schedule: true,
  maxGradNorm: true,
  compileShaders: true,
} satisfies OptionNames<CompileArgs>;

/** Result of one optimizer step. */
export interface StepResult {
  /** Mean loss over the labels that count, or over pairs. */
  loss: number;
  /** Number of labels that counted, or of pairs. */
  tokens: number;
  /** Numbers that describe the step, if the loss has any, by the names under which they are logged. */
  metrics?: Record<string, number>;
  /** Global norm of the gradients, before clipping. */
  gradNorm: number;
  /** Learning rate of this step; NaN for an optimizer without one. */
  learningRate: number;
}

/** Result of a step in `fitDataset`. */
export interface StepOutcome extends StepResult {
  /** Whether the step was skipped because loss or gradient was not finite; no weight has changed then. */
  isSkipped: boolean;
  /** The sums that the loss measured, from which `metrics` is computed. */
  measured?: Measured;
  /** Bytes in tensors, see {@link WindowGradients}. */
  memoryBytes: number;
}

/**
 * Distance between runs' seeds, so that dropout never uses the same seed in the steps of one run or of runs with
 * consecutive seeds.
 */
const STEPS_PER_SEED = 1_000_003;

/**
 * One optimizer step: gradients of a window → {@link onGradients} → clipping → update.
 *
 * If the optimizer can prepare a step (`prepareStep`) and `onGradients` is not set, clipping and update are queued on
 * the device before the host has read loss and norm, and change nothing if these are not finite. Otherwise the host
 * reads them first, and {@link clipByGlobalNorm} clips.
 */
export class TrainingStep {
  /**
   * Runs between gradients and clipping. It may replace the window's gradients, which it then disposes, its loss and
   * its number of labels. With several ranks, the window's sums over all of them are already there.
   */
  onGradients?: (window: WindowGradients) => void | Promise<void>;
  /** Number of steps since `compile`. */
  steps = 0;
  private compiled: {optimizer: tf.Optimizer; isOwned: boolean};
  private currentLoss = CROSS_ENTROPY;
  private schedule?: CompileArgs['schedule'];
  private maxGradNorm?: number;
  private compilesShaders = true;
  /** Records the pass of small steps. Let it forget before other work that needs memory. */
  protected readonly recorder = new PassRecorder();
  /** Backend and weights of the latest step, whose shaders are compiled. */
  private shadersOf?: {backend: tf.KernelBackend; weights: string};

  constructor(protected readonly model: TrainableModel) {
    this.compiled = {optimizer: new AdamW({learningRate: 1e-4}), isOwned: true};
  }

  get optimizer(): tf.Optimizer {
    return this.compiled.optimizer;
  }

  /** The loss that `compile` set. */
  get loss(): TrainingLoss {
    return this.currentLoss;
  }

  set optimizer(optimizer: tf.Optimizer) {
    assertIdle(this.model, 'optimizer');
    this.use({optimizer, isOwned: false});
  }

  /**
   * Sets optimizer, schedule and clipping, and resets the number of steps.
   *
   * @throws TfjsLoraError `INVALID_ARGUMENT`, `UNSUPPORTED`; the previous settings stay then
   */
  compile(args: CompileArgs = {}): void {
    assertIdle(this.model, 'compile');
    if (args instanceof tf.Optimizer) {
      throw new TfjsLoraError(
        'INVALID_ARGUMENT',
        'compile options: expected an object such as {optimizer: …}, got an optimizer. Use compile({optimizer}).',
      );
    }
    assertKnownOptions('compile', args, COMPILE_OPTIONS);
    const {optimizer: given, loss = CROSS_ENTROPY, schedule, maxGradNorm, compileShaders = true} = args;
    assertMaxGradNorm(maxGradNorm);
    assertLoss(loss);
    const optimizer = resolveOptimizer(given);
    const isOwned = optimizer !== given;
    try {
      if (schedule !== undefined) assertSchedule(schedule, optimizer);
    } catch (error) {
      if (isOwned) optimizer.dispose();
      throw error;
    }
    this.use({optimizer, isOwned});
    this.currentLoss = loss;
    this.schedule = schedule;
    this.maxGradNorm = maxGradNorm;
    this.compilesShaders = compileShaders;
    this.steps = 0;
  }

  /** Frees the state of an optimizer made here; one that was passed in remains the caller's. */
  dispose(): void {
    this.recorder.forget();
    if (this.compiled.isOwned) this.compiled.optimizer.dispose();
  }

  /**
   * Computes loss and gradients without a step; see {@link windowGradients}.
   *
   * @param options `seed` for dropout, which is on as in a training step. Default 0
   */
  async computeGradients(batches: Batch | Batch[], options: {seed?: number} = {}): Promise<WindowGradients> {
    assertKnownOptions('computeGradients', options, {seed: true} satisfies OptionNames<{seed?: number}>);
    assertBatches('computeGradients', batches);
    return windowGradients(this.model, batches, options.seed, undefined, undefined, this.loss);
  }

  /**
   * Runs one optimizer step on a batch, or on several micro-batches as one window.
   *
   * @throws TfjsLoraError `NON_FINITE` when loss or gradient is not finite; no weight has changed then
   */
  async trainOnBatch(batches: Batch | Batch[]): Promise<StepResult> {
    assertIdle(this.model, 'trainOnBatch');
    assertBatches('trainOnBatch', batches);
    if (this.steps === 0) warnOfFrozenMatrices(this.model);
    const {isSkipped, memoryBytes, measured, ...result} = await this.step(
      batches,
      this.scheduleOf()(this.steps),
    );
    if (isSkipped) throw this.notFinite(result);
    this.steps++;
    return result;
  }

  /**
   * Runs one step, or skips it when loss or gradient is not finite; the caller counts it.
   *
   * @param factor factor on the optimizer's learning rate
   * @param seed seed of the run. Default 0
   * @param onCompile called as shaders compile before the step
   */
  protected async step(
    batches: Batch | Batch[],
    factor: number,
    seed = 0,
    onCompile: CompileProgress = () => {},
  ): Promise<StepOutcome> {
    const learningRate = (learningRateOf(this.optimizer) ?? Number.NaN) * factor;
    let prepared: PreparedStep | undefined;
    const windowOf = windowGradients(
      this.model,
      batches,
      seed * STEPS_PER_SEED + this.steps,
      async (variables, pass) => {
        const backend = tf.backend();
        const weights = [...variables.keys()].join();
        const isCompiled = this.shadersOf?.backend === backend && this.shadersOf.weights === weights;
        if (this.compilesShaders && !isCompiled)
          await compileShaders(() => this.rehearse(pass(), variables), onCompile);
        this.shadersOf = {backend, weights};
      },
      (computed) => {
        prepared = this.prepare(computed, learningRate);
      },
      this.loss,
      this.canRecord ? this.recorder : undefined,
    );
    const window = await windowOf.catch(async (error) => {
      await prepared?.abandon();
      throw error;
    });
    try {
      if (this.onGradients && !prepared) {
        await this.onGradients(window);
        window.gradNorm = await scalarValue(globalNorm(Object.values(window.gradients)));
      }
      const {loss, tokens, gradNorm, gradients, memoryBytes, variables, metrics, measured} = window;
      const isSkipped = !Number.isFinite(loss) || !Number.isFinite(gradNorm);
      if (!isSkipped && prepared) prepared.apply();
      else if (!isSkipped)
        await withLearningRate(this.optimizer, learningRate, () =>
          this.update(gradients, variables, gradNorm),
        );
      const described = metrics && {metrics, measured};
      return {loss, tokens, ...described, gradNorm, learningRate, isSkipped, memoryBytes};
    } finally {
      prepared?.end();
      tf.dispose(window.gradients);
    }
  }

  /** While `fitDataset` runs, nothing else changes the model; a callback may keep gradients, which must not change then. */
  private get canRecord(): boolean {
    return this.model.busyWith !== undefined && !this.onGradients;
  }

  /**
   * Returns the factor at a step, counted since `compile`.
   *
   * @param run given for a run: its length if known, and its first step unless that is the current one
   * @throws TfjsLoraError `INVALID_ARGUMENT` when the schedule needs a length that is unknown
   */
  protected scheduleOf(run?: {totalSteps?: number; firstStep?: number}): LearningRateSchedule {
    const {schedule} = this;
    const firstStep = run?.firstStep ?? this.steps;
    if (schedule === undefined) return () => 1;
    if (typeof schedule === 'function') return schedule;
    const {name, ...args} = settingsOf(schedule);
    const learningRate = learningRateOf(this.optimizer);
    if (!run || args.totalSteps !== undefined) return learningRateSchedule(name, {learningRate, ...args});
    const factorAt = learningRateSchedule(name, {learningRate, ...args, totalSteps: run.totalSteps});
    return (step) => factorAt(step - firstStep);
  }

  private use(next: {optimizer: tf.Optimizer; isOwned: boolean}): void {
    if (next.optimizer !== this.optimizer) this.dispose();
    this.recorder.forget();
    this.compiled = next;
    this.shadersOf = undefined;
  }

  /** Queues {@link update} before the numbers are read, if the optimizer can. */
  private prepare(
    {gradients, variables, ...unread}: UnreadGradients,
    learningRate: number,
  ): PreparedStep | undefined {
    const {optimizer, maxGradNorm} = this;
    if (this.onGradients || !(optimizer instanceof NamedStateOptimizer)) return undefined;
    return withLearningRate(optimizer, learningRate, () =>
      optimizer.prepareStep(namedByVariable(gradients, variables), unread, maxGradNorm),
    );
  }

  private async update(
    gradients: tf.NamedTensorMap,
    variables: Map<string, tf.Variable>,
    gradNorm: number,
  ): Promise<void> {
    const {optimizer} = this;
    const clipped = this.clip(gradients, gradNorm);
    const byVariable = namedByVariable(clipped, variables);
    try {
      if (optimizer instanceof NamedStateOptimizer) await optimizer.applyGradientsAsync(byVariable);
      else tf.tidy(() => optimizer.applyGradients(byVariable));
    } finally {
      if (clipped !== gradients) tf.dispose(clipped);
    }
  }

  /** Rehearses {@link update} while nothing is computed; this is not possible for optimizers other than ours. */
  private rehearse(gradients: tf.NamedTensorMap, variables: Map<string, tf.Variable>): void {
    const {optimizer, maxGradNorm} = this;
    const isOurs = optimizer instanceof NamedStateOptimizer;
    if (isOurs && !this.onGradients && optimizer.preparesSteps) {
      optimizer.rehearse(namedByVariable(gradients, variables), true, maxGradNorm);
      return;
    }
    const clipped = this.clip(gradients, Number.POSITIVE_INFINITY);
    if (isOurs) optimizer.rehearse(namedByVariable(clipped, variables));
  }

  private clip(gradients: tf.NamedTensorMap, gradNorm: number): tf.NamedTensorMap {
    const {maxGradNorm} = this;
    return maxGradNorm === undefined ? gradients : clipByGlobalNorm(gradients, gradNorm, maxGradNorm);
  }

  private notFinite({loss, gradNorm}: StepResult): TfjsLoraError {
    return new TfjsLoraError(
      'NON_FINITE',
      `training step ${this.steps + 1}: expected numbers, got loss ${loss}, gradient norm ${gradNorm}. ` +
        'The weights did not change. Lower the learning rate or check the data.',
    );
  }
}

function assertBatches(call: string, given: Batch | Batch[]): void {
  const isWindow = Array.isArray(given) && given.every((batch) => !Array.isArray(batch));
  for (const batch of isWindow ? given : [given]) assertBatch(call, batch);
}

function resolveOptimizer(optimizer: CompileArgs['optimizer']): tf.Optimizer {
  if (optimizer === undefined) return new AdamW({learningRate: 1e-4});
  if (typeof optimizer === 'string') return optimizerByName(optimizer);
  if (optimizer !== null && optimizer instanceof tf.Optimizer) return optimizer;
  throw new TfjsLoraError(
    'INVALID_ARGUMENT',
    `compile optimizer: expected a tf.Optimizer or a name, got ${show(optimizer)}. ` +
      'Pass an optimizer that is made: new AdamW({learningRate: 1e-4}).',
  );
}

function assertLoss(loss: unknown): void {
  const {compute, count} = (loss ?? {}) as Partial<TrainingLoss>;
  if (typeof compute === 'function' && typeof count === 'function') return;
  throw new TfjsLoraError(
    'INVALID_ARGUMENT',
    `compile loss: expected preferenceLoss(), rewardLoss() or another TrainingLoss, got ${show(loss)}. ` +
      "Leave it out for the model's own: cross-entropy over the labels.",
  );
}

function settingsOf(
  schedule: ScheduleName | ({name: ScheduleName} & ScheduleArgs),
): {name: ScheduleName} & ScheduleArgs {
  return typeof schedule === 'string' ? {name: schedule} : schedule;
}

function assertSchedule(schedule: NonNullable<CompileArgs['schedule']>, optimizer: tf.Optimizer): void {
  if (learningRateOf(optimizer) === undefined) {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `compile schedule: expected an optimizer with a learningRate to change, got ${optimizer.getClassName()}. ` +
        'Use AdamW, or leave out the schedule.',
    );
  }
  if (typeof schedule === 'function') return;
  const {name, ...args} = settingsOf(schedule);
  learningRateSchedule(name, {...args, totalSteps: args.totalSteps ?? 1}); // throws; the length may come later
}

function assertMaxGradNorm(maxGradNorm: number | undefined): void {
  if (maxGradNorm === undefined || (typeof maxGradNorm === 'number' && maxGradNorm > 0)) return;
  throw new TfjsLoraError(
    'INVALID_ARGUMENT',
    `compile maxGradNorm: expected a number above 0, got ${show(maxGradNorm)}`,
  );
}

/** Returns gradients by the names of the variables, as optimizers take them. */
function namedByVariable(
  gradients: tf.NamedTensorMap,
  variables: Map<string, tf.Variable>,
): tf.NamedTensorMap {
  return Object.fromEntries(
    Object.entries(gradients).map(([key, gradient]) => [variables.get(key)?.name, gradient]),
  );
}
