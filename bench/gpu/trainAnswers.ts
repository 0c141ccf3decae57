import * as tf from '@tensorflow/tfjs';
import {linearCrossEntropyOp} from '../../layers/ops/linearCrossEntropy.ts';
import {
  AdamW,
  grpoLoss,
  ktoLoss,
  type Llama,
  ppoLoss,
  preferenceLoss,
  rewardLoss,
  type TrainingLoss,
} from '../../src/index.ts';

type Row = Record<string, string | number>;

export interface AnswersArgs {
  makeModel: () => Promise<Llama>;
  /** Rows of a batch, an even number, half of them chosen answers; and their tokens, half of them the prompt. */
  batch: number;
  length: number;
  rank: number;
  steps: number;
  /** Losses by name; default all. */
  losses?: string[];
  /** Returns the memory in use since the last call, by name. */
  memory(): Row;
}

const rewards = (_prompt: unknown, answers: string[]) => answers.map((answer, i) => answer.length / 10 + i);

/** Losses of batches of answers, and losses of answers that the model gives to prompts. */
const LOSSES: Record<string, () => TrainingLoss> = {
  dpo: () => preferenceLoss({type: 'sigmoid'}),
  kto: () => ktoLoss(),
  rm: () => rewardLoss(),
  ppo: () => ppoLoss({rewards, epochs: 1, maxNewTokens: 16}),
  grpo: () => grpoLoss({rewards, generations: 4, maxNewTokens: 16}),
};

/**
 * Trains some steps with each loss that compares or rates answers, with the kernel of the losses of labels and then with
 * the composed ops.
 */
export async function trainAnswers(args: AnswersArgs): Promise<Row[]> {
  const rows: Row[] = [];
  for (const name of args.losses ?? Object.keys(LOSSES)) {
    for (const isComposed of [false, true]) {
      const restore = isComposed ? removeKernel() : () => {};
      try {
        rows.push({what: `${name}, ${isComposed ? 'composed' : 'kernel'}`, ...(await train(name, args))});
      } catch (error) {
        rows.push({
          what: `${name}, ${isComposed ? 'composed' : 'kernel'}`,
          failed: String(error).slice(0, 300),
        });
      }
      restore();
      console.log(rows.at(-1));
    }
  }
  return rows;
}

function removeKernel(): () => void {
  const kernel = tf.getKernel(linearCrossEntropyOp.kernelName, tf.getBackend());
  if (!kernel) return () => {};
  tf.unregisterKernel(kernel.kernelName, kernel.backendName);
  return () => tf.registerKernel(kernel);
}

async function train(
  name: string,
  {makeModel, batch, length, rank, steps, memory}: AnswersArgs,
): Promise<Row> {
  const model = await makeModel();
  model.applyLoRA({rank, alpha: 16, targetModules: 'all-linear', seed: 0});
  const isRated = name === 'ppo' || name === 'grpo';
  if (name === 'rm' || name === 'ppo') model.addValueHead({seed: 0});
  const optimizer = new AdamW({learningRate: 1e-4});
  model.compile({optimizer, loss: LOSSES[name]()});
  const vocab = model.config.vocabSize;
  const ids = (row: number) => Array.from({length}, (_, t) => (row * 977 + t * 31) % vocab);
  const inputIds = Array.from({length: batch}, (_, row) => ids(row));
  const labels = inputIds.map((row) => row.map((id, t) => (t < length / 2 ? -100 : id)));
  const desirable = Array.from({length: batch / 2}, (_, row) => row % 2 === 0);
  const losses: number[] = [];
  const times: number[] = [];
  memory();
  let begun = performance.now();
  const stepped = (loss: number) => {
    losses.push(loss);
    times.push(performance.now() - begun);
    begun = performance.now();
  };
  if (isRated) {
    const prompts = inputIds.map((row) => ({inputIds: row.slice(0, 16), record: {}}));
    const callbacks = {onStepEnd: ({loss}: {loss: number}) => stepped(loss)};
    const settings = {batchSize: batch, shuffle: false, maxSteps: steps, verbose: 0 as const, callbacks};
    await model.fitDataset(prompts as never, {...settings, epochs: steps});
  } else {
    for (let i = 0; i < steps; i++)
      stepped(
        (await model.trainOnBatch({inputIds, labels, ...(name === 'kto' && {desirable})} as never)).loss,
      );
  }
  const used = memory();
  model.dispose();
  optimizer.dispose();
  return {
    losses: losses.map((loss) => loss.toFixed(5)).join(' '),
    'fastest ms': Number(Math.min(...times.slice(1)).toFixed(1)),
    ...used,
  };
}
