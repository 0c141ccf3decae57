import {join} from 'node:path';
import {fileURLToPath} from 'node:url';
import * as tf from '@tensorflow/tfjs';
import {counted} from '../../quant/counted.ts';
import {AdamW, type BackendName, Llama, TfjsLoraError, useBackend} from '../../src/index.ts';
import {assertCanPlot, plotLoss} from '../../src/training/plots/index.ts';
import {type AlpacaRecord, billRecords} from './billGenerator.ts';
import {type LearningSettings, learnSummaries, peakBytesOf, trainableCount} from './learnSummaries.ts';
import {type QuickstartSettings, readSettings} from './quickstartSettings.ts';
import {SeededRandom} from './seededRandom.ts';
import {evaluateSummaries, type SummaryEvaluation, summarize} from './summaryEvaluation.ts';

/**
 * The quickstart teaches a tiny Llama to summarise bills with LoRA, and measures it before and after on bills that it
 * has never seen. Run it with `npm run quickstart`, or with settings: `npm run quickstart -- --rank 16 --epochs 3`.
 * `--qlora` repeats it on a base that is quantized to 4 bits.
 */

async function main(settings: QuickstartSettings): Promise<void> {
  await assertCanPlot();
  const started = performance.now();
  const {rank, epochs, seed} = settings;
  console.log(String(await useBackend(settings.backend as BackendName)));

  // The data: bills and their summaries, generated from a seed. Held-out bills have their own names and combinations.
  const training = billRecords('train', settings.trainBills);
  const heldOut = billRecords('heldOut', settings.heldOutBills);
  console.log(
    `${training.length} bills to train on and ${heldOut.length} unseen bills to measure with. One of the unseen bills:\n`,
  );
  console.log(`${indented(heldOut[0].input)}\n`);

  // The model, and its results before training.
  const model = await Llama.fromPretrained(settings.model);
  const base = await evaluateSummaries(model, heldOut);

  // LoRA on every linear layer.
  const learning = {
    training,
    lora: {rank, alpha: 2 * rank, targetModules: 'all-linear'},
    epochs,
    batchSize: settings.batchSize,
    optimizer: () => new AdamW({learningRate: settings.learningRate, weightDecay: 0}),
    seed,
  };
  console.log(
    `LoRA of rank ${rank} on all linear layers, ${training.length} bills, ${counted(epochs, 'epoch')}.`,
  );
  const history = await learnSummaries(model, learning);
  const trainable = trainableCount(model);
  console.log(`${count(trainable)} weights trained, ${count(model.countParams() - trainable)} frozen.`);

  // After training, and a control: the trained numbers, shuffled. A gain counts only if the control does not have it.
  const trained = await evaluateSummaries(model, heldOut);
  const random = await withShuffledAdapter(model, seed, () => evaluateSummaries(model, heldOut));
  const rows: Row[] = [
    {name: 'base', ...base, bytes: model.byteLength - 4 * trainable},
    {name: 'shuffled adapter', ...random},
    {
      name: 'trained adapter',
      ...trained,
      bytes: model.byteLength,
      peak: await peakBytesOf(model, training.slice(0, learning.batchSize)),
    },
  ];

  // Files: the adapter in PEFT's format, and the loss curve.
  const adapterFolder = join(settings.out, 'adapter');
  const plotPath = join(settings.out, 'training_loss');
  await model.saveAdapter(adapterFolder);
  for (const type of ['png', 'svg']) {
    await plotLoss(history, `${plotPath}.${type}`, {
      title: 'Learning to summarise bills',
      subtitle: `LoRA rank ${rank} on all linear layers, ${counted(history.steps.length, 'step')}`,
    });
  }
  model.dispose();

  // A newly loaded model with this adapter writes the same summaries.
  const reloaded = await Llama.fromPretrained(settings.model);
  await reloaded.loadAdapter(adapterFolder);
  const again = await summarize(reloaded, heldOut);
  const same = again.filter((summary, index) => summary === trained.summaries[index]).length;
  reloaded.dispose();
  if (settings.qlora) rows.push(...(await qlora(settings, learning, heldOut)));
  printTable(rows);
  for (const [index, record] of heldOut.slice(0, 3).entries())
    printSample(record, base.summaries[index], trained.summaries[index]);
  console.log(`adapter   ${adapterFolder} (reloaded: ${same} of ${again.length} summaries are the same)`);
  console.log(`loss plot ${plotPath}.png, .svg`);
  console.log(`${((performance.now() - started) / 1000).toFixed(0)} s in total`);
  if (same < again.length) process.exitCode = 1;
}

/** Repeats the run on a base whose linear layers are quantized as in QLoRA: nf4 with double quantization. */
async function qlora(
  {model: folder, out}: QuickstartSettings,
  learning: LearningSettings,
  heldOut: AlpacaRecord[],
): Promise<Row[]> {
  const model = await Llama.fromPretrained(folder, {
    quantization: {type: 'nf4', doubleQuant: true},
  });
  const base = await evaluateSummaries(model, heldOut);
  const bytes = model.byteLength;
  console.log('\nThe same on the nf4 base.');
  await learnSummaries(model, learning);
  const trained = await evaluateSummaries(model, heldOut);
  const peak = await peakBytesOf(model, learning.training.slice(0, learning.batchSize));
  await model.saveAdapter(join(out, 'qlora-adapter'));
  const rows = [
    {name: 'nf4 base', ...base, bytes},
    {name: 'QLoRA', ...trained, bytes: model.byteLength, peak},
  ];
  model.dispose();
  return rows;
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

interface Row extends SummaryEvaluation {
  name: string;
  /** Size of all weights in memory, in bytes. */
  bytes?: number;
  /** Peak size of all tensors in a training step, in bytes. */
  peak?: number;
}

function printTable(rows: Row[]): void {
  const megabytes = (bytes?: number) => (bytes === undefined ? '' : (bytes / 1e6).toFixed(2));
  const columns: [string, (row: Row) => string][] = [
    ['loss', ({loss}) => loss.toFixed(3)],
    ['ROUGE-1', ({rouge1}) => rouge1.toFixed(2)],
    ['ROUGE-2', ({rouge2}) => rouge2.toFixed(2)],
    ['ROUGE-L', ({rougeL}) => rougeL.toFixed(2)],
    ['BLEU-4', ({bleu4}) => bleu4.toFixed(2)],
    ['exact', ({exact}) => `${(100 * exact).toFixed(0)} %`],
    ['weights MB', ({bytes}) => megabytes(bytes)],
    ['step MB', ({peak}) => megabytes(peak)],
  ];
  console.log(`\n${''.padEnd(16)}${columns.map(([name]) => name.padStart(11)).join('')}`);
  for (const row of rows) {
    console.log(`${row.name.padEnd(16)}${columns.map(([, cell]) => cell(row).padStart(11)).join('')}`);
  }
  console.log(
    'Scores on held-out bills: ROUGE as in rouge_score (stemmed), BLEU as in sacreBLEU, exact: share of summaries that\n' +
      'equal the reference. Step: peak of all tensors in a training step.\n',
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

/** Runs the quickstart. For a mistake of the user's, only the message is printed. */
async function run(): Promise<void> {
  try {
    await main(readSettings(process.argv.slice(2)));
  } catch (error) {
    if (!(error instanceof TfjsLoraError)) throw error;
    console.error(error.message);
    process.exitCode = 2;
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) void run();
