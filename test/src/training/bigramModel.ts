import * as tf from '@tensorflow/tfjs';
import type {Batch} from '../../../models/batchLoss.ts';
import type {TrainableModel} from '../../../src/index.ts';

const VOCAB_SIZE = 6;

/** The smallest language model: a table with the next token's logits for each token. */
export class BigramModel implements TrainableModel {
  readonly config = {vocabSize: VOCAB_SIZE, maxPositionEmbeddings: 16};
  stopTraining = false;
  readonly table: tf.Variable;
  /** Every batch it saw while training, and the seed it got. */
  readonly seen: {batch: Batch; seed?: number}[] = [];
  /** Multiplies the loss of the n-th training batch, from 0. */
  spoil?: (call: number) => number;

  constructor(name = 'table') {
    const start = Float32Array.from({length: VOCAB_SIZE ** 2}, (_, i) => Math.sin(i));
    this.table = tf.tidy(() => tf.tensor2d(start, [VOCAB_SIZE, VOCAB_SIZE]).variable(true, name));
  }

  trainableParameters(): Map<string, tf.Variable> {
    return new Map([['table.weight', this.table]]);
  }

  targetCount({labels}: Batch): number {
    return this.targets(labels as number[][]).length;
  }

  lossSum(batch: Batch, options: {training?: boolean; seed?: number} = {}): tf.Scalar {
    const factor = (options.training && this.spoil?.(this.seen.length)) ?? 1;
    if (options.training) this.seen.push({batch, seed: options.seed});
    const pairs = this.targets(batch.labels as number[][]).map(({row, at, label}) => ({
      from: (batch.inputIds as number[][])[row][at],
      label,
    }));
    return tf.tidy(() => {
      const from = tf.oneHot(
        tf.tensor1d(
          pairs.map((pair) => pair.from),
          'int32',
        ),
        VOCAB_SIZE,
      ); // [N, V]
      const to = tf.oneHot(
        tf.tensor1d(
          pairs.map((pair) => pair.label),
          'int32',
        ),
        VOCAB_SIZE,
      );
      const logits = tf.matMul(from.toFloat() as tf.Tensor2D, this.table as unknown as tf.Tensor2D);
      return tf.logSoftmax(logits).mul(to.toFloat()).sum().mul(-factor) as tf.Scalar;
    });
  }

  /** The loss of one token after another, in plain numbers. */
  surprise(from: number, to: number): number {
    const values = this.table.dataSync();
    const row = Array.from(values.slice(from * VOCAB_SIZE, (from + 1) * VOCAB_SIZE));
    return Math.log(row.reduce((sum, logit) => sum + Math.exp(logit), 0)) - row[to];
  }

  private targets(labels: number[][]) {
    return labels.flatMap((row, index) =>
      row.slice(1).flatMap((label, at) => (label === -100 ? [] : [{row: index, at, label}])),
    );
  }
}
