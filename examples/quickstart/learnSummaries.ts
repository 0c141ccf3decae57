import * as tf from '@tensorflow/tfjs';
import {
  AdamW,
  collate,
  type Llama,
  type LoRAOptions,
  type Tokenizer,
  type TrainingHistory,
} from '../../src/index.ts';
import {type AlpacaRecord, billRecords} from './billGenerator.ts';
import {exampleOf} from './summaryEvaluation.ts';

export interface LearningSettings {
  /** Training bills. */
  training: readonly AlpacaRecord[];
  lora: LoRAOptions;
  /** Makes the optimizer, a new one for each run, because it has state. Default: `AdamW` at 1e-2 without decay. */
  optimizer?: () => tf.Optimizer;
  epochs: number;
  batchSize: number;
  seed: number;
}

/** Adds adapters to a model and trains them to summarise bills, with a cosine schedule and clipping. */
export async function learnSummaries(model: Llama, settings: LearningSettings): Promise<TrainingHistory> {
  const {training, lora, epochs, batchSize, seed} = settings;
  const {optimizer = () => new AdamW({learningRate: 1e-2, weightDecay: 0})} = settings;
  const tokenizer = model.tokenizer as Tokenizer;
  const examples = (records: readonly AlpacaRecord[]) =>
    records.map((record) => exampleOf(tokenizer, record));
  model.applyLoRA({...lora, seed});
  model.gradientCheckpointing = false; // so small a model need not save memory
  model.compile({optimizer: optimizer(), schedule: {name: 'cosine', warmupSteps: 10}, maxGradNorm: 1});
  const history = await model.fitDataset(examples(training), {
    epochs,
    batchSize,
    validationData: examples(billRecords('heldOut', 16, 1)),
    validationBatchSize: 16,
    evaluationSteps: 20,
    seed,
  });
  model.optimizer.dispose(); // the model only disposes optimizers that it made itself
  return history;
}

/** Counts the trainable weights. */
export function trainableCount(model: Llama): number {
  return [...model.trainableParameters().values()].reduce((sum, {size}) => sum + size, 0);
}

/** Measures the peak size of all tensors in a training step, in bytes: weights, activations and gradients. */
export async function peakBytesOf(model: Llama, records: readonly AlpacaRecord[]): Promise<number> {
  const tokenizer = model.tokenizer as Tokenizer;
  const batch = collate(records.map((record) => exampleOf(tokenizer, record)));
  const {peakBytes} = await tf.profile(async () => {
    const {gradients, loss} = await model.computeGradients(batch);
    tf.dispose(gradients);
    return tf.scalar(loss);
  });
  return peakBytes;
}
