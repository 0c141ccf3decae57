/**
 * Runs a tiny training in a separate process, which a test kills: `killedRun.ts <folder> <losses file> <die at>`.
 *
 * It resumes from the newest checkpoint, and appends each step's number and the bits of its loss to the losses file. At
 * the `die at`-th change to the output folder it kills itself, right before the change or, for a write, in its middle.
 */
import fs from 'node:fs';
import {syncBuiltinESMExports} from 'node:module';
import {AdamW, type Example, Llama, setWarningHandler, useBackend} from '../../../src/index.ts';

const [folder, lossesFile, dieAt] = process.argv.slice(2);

const config = {
  vocabSize: 32,
  hiddenSize: 16,
  intermediateSize: 24,
  numHiddenLayers: 1,
  numAttentionHeads: 4,
  numKeyValueHeads: 2,
  maxPositionEmbeddings: 32,
  initializerRange: 0.3,
};
const examples: Example[] = Array.from({length: 11}, (_, i) => ({
  inputIds: Array.from({length: 3 + (i % 5)}, (_, t) => (1 + t * (2 * i + 3)) % 32),
}));

let changes = 0;
const killer = fs as unknown as Record<string, (...args: unknown[]) => unknown>;
for (const name of [
  'openSync',
  'writeSync',
  'fsyncSync',
  'renameSync',
  'rmSync',
  'appendFileSync',
  'mkdirSync',
]) {
  const original = killer[name];
  killer[name] = (...args) => {
    if (++changes === Number(dieAt)) {
      if (name === 'writeSync') original(args[0], (args[1] as Uint8Array).subarray(0, 5));
      process.kill(process.pid, 'SIGKILL');
    }
    return original(...args);
  };
}
syncBuiltinESMExports();

async function main(): Promise<void> {
  setWarningHandler((message) => process.stdout.write(`${message}\n`));
  await useBackend('cpu');
  const model = Llama.fromConfig(config, {seed: 3});
  model.applyLoRA({rank: 2, dropout: 0.2, seed: 5});
  model.compile({
    optimizer: new AdamW({learningRate: 0.02}),
    schedule: {name: 'cosine', warmupRatio: 0.1},
    maxGradNorm: 1,
  });
  await model.fitDataset(examples, {
    epochs: 3,
    batchSize: 2,
    gradientAccumulationSteps: 2,
    outputDir: folder,
    saveSteps: 2,
    saveTotalLimit: 2,
    loggingSteps: 1,
    reportTo: ['tensorboard', 'csv'],
    validationData: examples.slice(0, 3),
    resumeFromCheckpoint: true,
    verbose: 0,
    callbacks: ({step, loss}) => {
      const bits = Buffer.alloc(8);
      bits.writeDoubleBE(loss);
      return fs.promises.appendFile(lossesFile, `${step} ${bits.toString('hex')}\n`);
    },
  });
  process.stdout.write(`changes ${changes}\n`);
}
main();
