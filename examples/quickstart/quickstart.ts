import {join} from 'node:path';
import {fileURLToPath} from 'node:url';
import {parseArgs} from 'node:util';
import * as tf from '@tensorflow/tfjs';
import {AdamW, type BackendName, Llama, plotLoss, type Tokenizer, useBackend} from '../../src/index.ts';
import {type AlpacaRecord, billRecords} from './billGenerator.ts';
import {SeededRandom} from './seededRandom.ts';
import {evaluateSummaries, exampleOf, type SummaryEvaluation, summarize} from './summaryEvaluation.ts';

/**
 * The quickstart: teaches a tiny Llama to summarise bills with LoRA, and measures it on bills it has never seen,
 * before and after. `npm run quickstart`, or with settings `npm run quickstart -- --rank 16 --epochs 3`.
 */

const {values: settings} = parseArgs({
  options: {
    model: {type: 'string', default: join(import.meta.dirname, 'model')},
    out: {type: 'string', default: join('out', 'quickstart')},
    backend: {type: 'string', default: 'wasm'},
    rank: {type: 'string', default: '8'},
    epochs: {type: 'string', default: '2'},
    'batch-size': {type: 'string', default: '8'},
    'learning-rate': {type: 'string', default: '1e-2'},
    'train-bills': {type: 'string', default: '600'},
    'held-out-bills': {type: 'string', default: '48'},
    seed: {type: 'string', default: '0'},
  },
});

async function main(): Promise<void> {
  const started = performance.now();
  const seed = Number(settings.seed);
  console.log(String(await useBackend(settings.backend as BackendName)));

  // The data: bills and their summaries, made from a seed. Held-out bills have names and combinations of their own.
  const training = billRecords('train', Number(settings['train-bills']));
  const heldOut = billRecords('heldOut', Number(settings['held-out-bills']));
  console.log(
    `${training.length} bills to learn from, ${heldOut.length} unseen ones to be measured on. One of them:\n`,
  );
  console.log(`${indented(heldOut[0].input)}\n`);

  // The model, and what it makes of the task before training.
  const model = await Llama.fromPretrained<Llama>(settings.model);
  const tokenizer = model.tokenizer as Tokenizer;
  const base = await evaluateSummaries(model, heldOut);

  // LoRA on every linear layer.
  const rank = Number(settings.rank);
  model.applyLoRA({rank, alpha: 2 * rank, targetModules: 'all-linear', seed});
  const trainable = [...model.trainableParameters().values()].reduce((sum, {size}) => sum + size, 0);
  console.log(
    `LoRA of rank ${rank}: ${count(trainable)} weights train, ${count(model.countParams() - trainable)} stay.`,
  );
  model.gradientCheckpointing = false; // a model this small need not save memory
  model.compile({
    optimizer: new AdamW({learningRate: Number(settings['learning-rate']), weightDecay: 0}),
    schedule: {name: 'cosine', warmupSteps: 10},
    maxGradNorm: 1,
  });
  const validationData = billRecords('heldOut', 16, 1).map((record) => exampleOf(tokenizer, record));
  const history = await model.fitDataset(
    training.map((record) => exampleOf(tokenizer, record)),
    {
      epochs: Number(settings.epochs),
      batchSize: Number(settings['batch-size']),
      validationData,
      validationBatchSize: 16,
      evaluationSteps: 20,
      seed,
    },
  );

  // After training, and a control: the trained numbers in random places. A gain that this has too would be no gain.
  const trained = await evaluateSummaries(model, heldOut);
  const random = await withShuffledAdapter(model, seed, () => evaluateSummaries(model, heldOut));
  printTable({base, 'random adapter': random, 'trained adapter': trained});
  for (const index of [0, 1, 2]) printSample(heldOut[index], base.summaries[index], trained.summaries[index]);

  // Files: the adapter as PEFT reads it, and the loss curve.
  const adapterFolder = join(settings.out, 'adapter');
  const plotPath = join(settings.out, 'training_loss.png');
  await model.saveAdapter(adapterFolder);
  await plotLoss({training: history.steps, validation: history.evaluations}, plotPath, {
    title: 'Learning to summarise bills',
    subtitle: `LoRA rank ${rank} on all linear layers, ${history.steps.length} steps`,
  });
  model.dispose();

  // Whoever loads the adapter gets the same summaries.
  const reloaded = await Llama.fromPretrained<Llama>(settings.model);
  await reloaded.loadAdapter(adapterFolder);
  const again = await summarize(reloaded, heldOut);
  const same = again.filter((summary, index) => summary === trained.summaries[index]).length;
  reloaded.dispose();
  console.log(`adapter   ${adapterFolder} (reloaded: ${same} of ${again.length} summaries are the same)`);
  console.log(`loss plot ${plotPath}`);
  console.log(`${((performance.now() - started) / 1000).toFixed(0)} s in all`);
  if (same < again.length) process.exitCode = 1;
}

/** Runs `fn` with every adapter weight moved to a random place in its matrix. */
async function withShuffledAdapter<T>(model: Llama, seed: number, fn: () => Promise<T>): Promise<T> {
  const random = new SeededRandom(seed);
  const variables = [...model.trainableParameters().values()];
  const originals = variables.map((variable) => variable.clone());
  for (const variable of variables) {
    const shuffled = tf.tensor(random.shuffle([...(await variable.data())]), variable.shape);
    variable.assign(shuffled);
    shuffled.dispose();
  }
  try {
    return await fn();
  } finally {
    for (const [index, original] of originals.entries()) {
      variables[index].assign(original);
      original.dispose();
    }
  }
}

function printTable(rows: Record<string, SummaryEvaluation>): void {
  const columns: [string, (row: SummaryEvaluation) => string][] = [
    ['loss', ({loss}) => loss.toFixed(3)],
    ['ROUGE-1', ({rouge1}) => rouge1.toFixed(2)],
    ['ROUGE-2', ({rouge2}) => rouge2.toFixed(2)],
    ['ROUGE-L', ({rougeL}) => rougeL.toFixed(2)],
    ['BLEU-4', ({bleu4}) => bleu4.toFixed(2)],
    ['exact', ({exact}) => `${(100 * exact).toFixed(0)} %`],
  ];
  console.log(`\n${''.padEnd(16)}${columns.map(([name]) => name.padStart(9)).join('')}`);
  for (const [name, row] of Object.entries(rows)) {
    console.log(`${name.padEnd(16)}${columns.map(([, cell]) => cell(row).padStart(9)).join('')}`);
  }
  console.log(
    'held-out bills; ROUGE as rouge_score (stemmed), BLEU as sacreBLEU, exact: equal to the reference\n',
  );
}

function printSample({output}: AlpacaRecord, before: string, after: string): void {
  console.log(`reference  ${output}\nbefore     ${before}\nafter      ${after}\n`);
}

function indented(text: string): string {
  return text.replace(/^/gm, '    ');
}

function count(weights: number): string {
  return weights.toLocaleString('en-US');
}

if (process.argv[1] === fileURLToPath(import.meta.url)) void main();
