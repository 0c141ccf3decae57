import {parseArgs} from 'node:util';
import {type BackendName, Lion, Llama, type LoRAOptions, PagedAdamW, useBackend} from '../../src/index.ts';
import {billRecords} from '../quickstart/billGenerator.ts';
import {
  type LearningSettings,
  learnSummaries,
  peakBytesOf,
  trainableCount,
} from '../quickstart/learnSummaries.ts';
import {evaluateSummaries, type SummaryEvaluation} from '../quickstart/summaryEvaluation.ts';

/**
 * A first LoRA study on the quickstart's model and bills, in one table. It compares ranks, adapted layers, 16 and 4
 * bits, optimizers, and one adapter on top of another.
 *
 *   npx tsx examples/grid/grid.ts [--train-bills 300] [--epochs 2] [--held-out-bills 48] [--seed 0]
 */

const {values: settings} = parseArgs({
  options: {
    model: {type: 'string', default: 'examples/quickstart/model'},
    backend: {type: 'string', default: 'wasm'},
    epochs: {type: 'string', default: '2'},
    'train-bills': {type: 'string', default: '300'},
    'held-out-bills': {type: 'string', default: '48'},
    seed: {type: 'string', default: '0'},
  },
});

const NF4 = {type: 'nf4', doubleQuant: true} as const;
const seed = Number(settings.seed);
const heldOut = billRecords('heldOut', Number(settings['held-out-bills']));
const training = billRecords('train', Number(settings['train-bills']));

interface Row extends SummaryEvaluation {
  name: string;
  trainable: number;
  weightBytes: number;
  /** Peak size of all tensors in a training step, in bytes. */
  stepBytes?: number;
}

const load = (options: Parameters<typeof Llama.fromPretrained>[1] = {}) =>
  Llama.fromPretrained(settings.model, options);

/** Trains an adapter on a model and measures the result. */
async function measure(
  name: string,
  model: Llama,
  lora: LoRAOptions,
  optimizer?: LearningSettings['optimizer'],
): Promise<Row> {
  console.log(`\n${name}`);
  await learnSummaries(model, {
    training,
    lora,
    optimizer,
    epochs: Number(settings.epochs),
    batchSize: 8,
    seed,
  });
  return {
    name,
    ...(await evaluateSummaries(model, heldOut)),
    trainable: trainableCount(model),
    weightBytes: model.byteLength,
    stepBytes: await peakBytesOf(model, training.slice(0, 8)),
  };
}

/** Runs {@link measure} with a new model, and disposes the model. */
async function alone(
  name: string,
  loading: Promise<Llama>,
  lora: LoRAOptions,
  optimizer?: LearningSettings['optimizer'],
): Promise<Row> {
  const model = await loading;
  try {
    return await measure(name, model, lora, optimizer);
  } finally {
    model.dispose();
  }
}

/** Trains LoRA on the 16-bit base, merges it, quantizes the result, and trains a second adapter on that. */
async function inSequence(): Promise<Row> {
  const model = await load();
  await measure('LoRA, to be merged', model, {rank: 8});
  model.fuseLoRA();
  await model.quantize(NF4);
  const row = await measure('LoRA, then QLoRA', model, {rank: 8});
  model.dispose();
  return row;
}

async function base(): Promise<Row> {
  const model = await load();
  const row = {
    name: 'before',
    ...(await evaluateSummaries(model, heldOut)),
    trainable: 0,
    weightBytes: model.byteLength,
  };
  model.dispose();
  return row;
}

/**
 * Makes Lion with a tenth of AdamW's rate. All its steps have one size, so it needs a third to a tenth (Chen et al.
 * 2023).
 */
const lion = () => new Lion({learningRate: 1e-3, weightDecay: 0});
const paged = () => new PagedAdamW({learningRate: 1e-2, weightDecay: 0});

async function main(): Promise<void> {
  console.log(String(await useBackend(settings.backend as BackendName)));
  const rows = [
    await base(),
    await alone('rank 8, all linear', load(), {rank: 8}),
    await alone('rank 16, all linear', load(), {rank: 16}),
    await alone('rank 8, q_proj and v_proj', load(), {rank: 8, targetModules: ['q_proj', 'v_proj']}),
    await alone('QLoRA, rank 8, all linear', load({quantization: NF4}), {rank: 8}),
    await alone('QLoRA, paged AdamW', load({quantization: NF4}), {rank: 8}, paged),
    await alone('rank 8, all linear, Lion', load(), {rank: 8}, lion),
    await inSequence(),
  ];
  printMarkdown(rows);
}

function printMarkdown(rows: Row[]): void {
  const megabytes = (bytes?: number) => (bytes === undefined ? '' : (bytes / 1e6).toFixed(2));
  console.log('\n| | trained weights | loss | BLEU-4 | ROUGE-1 | ROUGE-2 | ROUGE-L | weights MB | step MB |');
  console.log('|---|---|---|---|---|---|---|---|---|');
  for (const {name, trainable, loss, bleu4, rouge1, rouge2, rougeL, weightBytes, stepBytes} of rows) {
    const scores = [bleu4, rouge1, rouge2, rougeL].map((score) => score.toFixed(2));
    const cells = [name, trainable.toLocaleString('en-US'), loss.toFixed(3), ...scores];
    console.log(`| ${[...cells, megabytes(weightBytes), megabytes(stepBytes)].join(' | ')} |`);
  }
}

void main();
