import type * as tf from '@tensorflow/tfjs';
import {assertBatch} from '../../models/assertBatch.ts';
import type {Batch} from '../../models/batchLoss.ts';
import type {CausalLM} from '../../models/causalLM.ts';
import type {ModelClass} from '../../models/modelClass.ts';
import {TfjsLoraError} from '../../quant/errors.ts';
import {RecordDataset, type Records} from '../data/records/recordDataset.ts';
import type {RecordOptions} from '../data/records/recordEncoder.ts';
import type {RecordData} from '../data/records/trainingRecord.ts';
import {type PredictionRun, type PredictOptions, predictDataset} from './prediction/predictDataset.ts';
import type {PredictionData} from './prediction/readPrompts.ts';
import {type ScoreOptions, scoreAnswers} from './prediction/scoreAnswers.ts';
import type {Evaluation} from './run/callbacks.ts';
import type {FitArgs} from './run/fitArgs.ts';
import type {TrainingHistory} from './run/trainingHistory.ts';
import type {CompileArgs, StepResult} from './steps/trainingStep.ts';
import type {WindowGradients} from './steps/windowGradients.ts';
import {type EvaluateArgs, Trainer} from './trainer.ts';

type Keras = tf.LayersModel;

/**
 * The methods that training adds to a model. `compile`, `fitDataset`, `trainOnBatch` and `evaluateDataset` take records
 * or token ids instead of Keras's `x` and `y`. Keras's own signatures stay in the types only so that such a model is
 * accepted as a `tf.LayersModel`.
 */
export interface Training {
  readonly trainer: Trainer;

  /**
   * Sets the optimizer, loss, learning rate schedule and clipping. The default loss is the model's own: cross-entropy
   * over the labels. `preferenceLoss()` trains on pairs of a chosen and a rejected answer, `rewardLoss()` trains a
   * reward model on such pairs, and `ktoLoss()` trains on answers with a verdict.
   *
   * @throws TfjsLoraError `INVALID_ARGUMENT` for a `loss` of Keras, `metrics` or another unknown option, and what the
   *   trainer throws
   */
  compile(args?: CompileArgs): void;

  /** The optimizer that `compile` set. */
  optimizer: tf.Optimizer;

  /**
   * Makes examples from records once. You can look at them with `preview`, and pass them to `fitDataset` and
   * `evaluateDataset`. Pass options here to change the defaults for records.
   *
   * @throws TfjsLoraError naming a record of unknown keys or without an answer; `UNSUPPORTED` when the model has no
   *   tokenizer, or no chat template and `template` names none
   */
  dataset(records: Records, options?: RecordOptions): Promise<RecordDataset>;

  /**
   * Trains on records (text), examples (token ids) or batches, showing progress; see {@link FitArgs}.
   *
   * @example
   * ```ts
   * import {AdamW, Llama} from 'tfjs-lora';
   *
   * const model = await Llama.fromPretrained('Llama-3.2-1B-Instruct');
   * model.applyLoRA({rank: 8});
   * model.compile({optimizer: new AdamW({learningRate: 1e-4}), schedule: {name: 'cosine', warmupRatio: 0.1}});
   * const history = await model.fitDataset([{prompt: 'Who founded Adaville?', completion: 'Ada did.'}], {
   *   epochs: 3,
   *   batchSize: 4,
   *   gradientAccumulationSteps: 8,
   *   outputDir: 'out',
   * });
   * console.log(history.history.loss);
   * ```
   */
  fitDataset(data: RecordData, args?: FitArgs): Promise<TrainingHistory>;

  /** Runs one optimizer step on a batch; several batches form one accumulation window. */
  trainOnBatch(batch: Batch | Batch[]): Promise<StepResult>;

  /**
   * Computes `{loss, perplexity, tokens}` over a dataset.
   *
   * @example
   * ```ts
   * import {Llama} from 'tfjs-lora';
   *
   * const model = await Llama.fromPretrained('Llama-3.2-1B-Instruct');
   * const records = [{prompt: 'Who founded Adaville?', completion: 'Ada did.'}];
   * const {loss, perplexity} = await model.evaluateDataset(records);
   * ```
   */
  evaluateDataset(data: RecordData, args?: EvaluateArgs): Promise<Evaluation>;

  /**
   * Answers the prompts of a dataset and scores the answers by BLEU and ROUGE, as `tfjs-lora eval` does. The texts are
   * in `predictions`. The prompt is everything in a record before its last answer, which is the expected answer.
   *
   * @throws TfjsLoraError as `predictDataset` of `tfjs-lora/evaluation`, which takes the same options
   */
  predictDataset(data: PredictionData, options?: PredictOptions): Promise<PredictionRun>;

  /**
   * Scores answers with the value head, at the last token of each: the rewards of a reward model.
   *
   * @param answers records, or examples of token ids, of single answers
   * @returns the scores, in order
   * @throws TfjsLoraError `UNSUPPORTED` for a model without a value head; naming a record or example that cannot be used
   * @example
   * ```ts
   * import {Llama} from 'tfjs-lora';
   *
   * const model = await Llama.fromPretrained('Llama-3.2-1B-Instruct');
   * await model.loadAdapter('reward');
   * await model.loadValueHead('reward');
   * const [good, bad] = await model.score([
   *   {prompt: 'Who founded Adaville?', completion: 'Ada did.'},
   *   {prompt: 'Who founded Adaville?', completion: 'No.'},
   * ]);
   * ```
   */
  score(answers: Records | RecordDataset, options?: ScoreOptions): Promise<number[]>;

  /**
   * Computes the loss and the gradients of the trained weights, keyed as in a PEFT file. Dispose of the gradients after
   * use.
   *
   * @param options `seed` for dropout, which is on as in a training step. Default 0
   */
  computeGradients(batch: Batch | Batch[], options?: {seed?: number}): Promise<WindowGradients>;

  /**
   * Always refuses.
   *
   * @throws TfjsLoraError `UNSUPPORTED`: Keras's training on tensors `x` and `y` does not fit token ids
   */
  fit(): Promise<never>;

  /**
   * Always refuses.
   *
   * @throws TfjsLoraError `UNSUPPORTED`, as {@link fit}
   */
  evaluate(): never;
}

/** A model of any family, with training. */
export type TrainableCausalLM = Training & CausalLM;

/** A family's class with training; its constructor and statics are the family's. */
export type Trainable<B extends ModelClass<CausalLM>> = Pick<B, keyof B> &
  (new (
    ...args: ConstructorParameters<B>
  ) => Training & InstanceType<B>);

/** Classes made so far, so that each family has only one. */
const made = new WeakMap<object, object>();

/**
 * Adds training to a family's class: `const Mine = trainable(MineForCausalLM)`. Further calls return the same class; a
 * class that already trains is returned unchanged.
 */
export function trainable<B extends ModelClass<CausalLM>>(Base: B): Trainable<B> {
  if ('computeGradients' in Base.prototype) return Base as unknown as Trainable<B>;
  let model = made.get(Base);
  if (!model) {
    model = withTraining(Base as unknown as typeof CausalLM);
    made.set(Base, model);
  }
  return model as Trainable<B>;
}

function withTraining(Base: typeof CausalLM) {
  abstract class Trained extends Base implements Training {
    static override className = Base.className.replace(/ForCausalLM$/, '');
    readonly trainer = new Trainer(this);

    override compile(args: CompileArgs | Parameters<Keras['compile']>[0] = {}): void {
      this.assertUsable();
      this.trainer.compile(args as CompileArgs);
    }

    override get optimizer(): tf.Optimizer {
      return this.trainer.optimizer;
    }

    override set optimizer(optimizer: tf.Optimizer) {
      this.trainer.optimizer = optimizer;
    }

    dataset(records: Records, options?: RecordOptions): Promise<RecordDataset> {
      return RecordDataset.fromRecords('dataset', records, this.tokenizer, options);
    }

    override fitDataset(data: RecordData, args?: FitArgs): Promise<TrainingHistory>;
    override fitDataset(...args: Parameters<Keras['fitDataset']>): ReturnType<Keras['fitDataset']>;
    override async fitDataset(data: unknown, args?: unknown): Promise<TrainingHistory> {
      this.assertUsable();
      try {
        return await this.trainer.fit(data as RecordData, args as FitArgs);
      } finally {
        if (this.trainer.history) this.history = this.trainer.history;
      }
    }

    override trainOnBatch(batch: Batch | Batch[]): Promise<StepResult>;
    override trainOnBatch(...args: Parameters<Keras['trainOnBatch']>): ReturnType<Keras['trainOnBatch']>;
    // biome-ignore lint/suspicious/noExplicitAny: the overloads above give the types
    override async trainOnBatch(batch: unknown, ...others: unknown[]): Promise<any> {
      this.assertUsable();
      if (others[0] !== undefined) assertBatch('trainOnBatch', batch, others);
      return this.trainer.trainOnBatch(batch as Batch);
    }

    override evaluateDataset(data: RecordData, args?: EvaluateArgs): Promise<Evaluation>;
    override evaluateDataset(
      ...args: Parameters<Keras['evaluateDataset']>
    ): ReturnType<Keras['evaluateDataset']>;
    // biome-ignore lint/suspicious/noExplicitAny: the overloads above give the types
    override async evaluateDataset(data: unknown, args?: unknown): Promise<any> {
      this.assertUsable();
      return this.trainer.evaluate(data as RecordData, args as EvaluateArgs);
    }

    async predictDataset(data: PredictionData, options?: PredictOptions): Promise<PredictionRun> {
      this.assertUsable();
      return predictDataset(this, data, options);
    }

    async score(answers: Records | RecordDataset, options?: ScoreOptions): Promise<number[]> {
      this.assertUsable();
      const {examples} =
        answers instanceof RecordDataset
          ? answers
          : await RecordDataset.fromRecords('score', answers, this.tokenizer);
      return scoreAnswers(this, examples, options);
    }

    async computeGradients(batch: Batch | Batch[], options?: {seed?: number}): Promise<WindowGradients> {
      this.assertUsable();
      return this.trainer.computeGradients(batch, options);
    }

    override async fit(): Promise<never> {
      throw new TfjsLoraError(
        'UNSUPPORTED',
        'fit: expected a call of fitDataset, which takes records, or token ids and labels',
      );
    }

    override evaluate(): never {
      throw new TfjsLoraError(
        'UNSUPPORTED',
        'evaluate: expected a call of evaluateDataset, which takes records, or token ids and labels',
      );
    }

    override dispose(): ReturnType<Keras['dispose']> {
      const result = super.dispose();
      this.trainer.dispose();
      return result;
    }
  }
  Object.defineProperty(Trained, 'name', {value: Trained.className});
  return Trained;
}
