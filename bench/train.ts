/**
 * Compares a LoRA training step with PyTorch + PEFT on the same machine in the same run.
 *
 *   npx tsx bench/train.ts [--backend wasm] [--threads 2] [--python path/to/python] [--json file]
 *
 * The model is a Llama of 27 million parameters with rank 8 on all linear layers. A step uses float32, AdamW and 4
 * sequences of 256 tokens, with and without gradient checkpointing. With `--python` (a Python that has torch,
 * transformers and peft) the same steps run there, in turn with ours, and the last column is our rate as a share of
 * theirs. Times are medians.
 */
import {execFileSync} from 'node:child_process';
import {writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {parseArgs} from 'node:util';
import {AdamW, Llama, useBackend} from '../src/index.ts';

const shape = {
  vocabSize: 8192,
  hiddenSize: 512,
  intermediateSize: 1536,
  numHiddenLayers: 8,
  numAttentionHeads: 8,
  numKeyValueHeads: 4,
  maxPositionEmbeddings: 1024,
  tieWordEmbeddings: true,
};
const [batch, length, rounds, stepsPerRound] = [4, 256, 2, 3];

const median = (values: number[]) => [...values].sort((a, b) => a - b)[values.length >> 1];

async function ours(model: Llama, gradientCheckpointing: boolean): Promise<number[]> {
  model.gradientCheckpointing = gradientCheckpointing;
  const inputIds = Array.from({length: batch}, (_, b) =>
    Array.from({length}, (_, t) => (b * 977 + t * 31) % shape.vocabSize),
  );
  const times: number[] = [];
  for (let step = -1; step <= stepsPerRound; step++) {
    const begun = performance.now();
    await model.trainOnBatch({inputIds, labels: inputIds});
    if (step > 0) times.push(performance.now() - begun); // the first two steps are the warm-up
  }
  return times;
}

function theirs(python: string, threads: number, gradientCheckpointing: boolean): number[] {
  const args = JSON.stringify({
    ...shape,
    batch,
    length,
    threads,
    steps: stepsPerRound,
    gradientCheckpointing,
  });
  const output = execFileSync(python, [join(import.meta.dirname ?? __dirname, 'train_peer.py'), args], {
    encoding: 'utf8',
  });
  return JSON.parse(output.trim().split('\n').at(-1) as string).milliseconds;
}

async function main(): Promise<void> {
  const {values} = parseArgs({
    options: {
      backend: {type: 'string', default: 'wasm'},
      threads: {type: 'string', default: '2'},
      python: {type: 'string'},
      json: {type: 'string'},
    },
  });
  const threads = Number(values.threads);
  console.log(String(await useBackend(values.backend as 'wasm', {threads})));
  const model = Llama.fromConfig(shape, {seed: 0});
  model.applyLoRA({rank: 8});
  model.compile({optimizer: new AdamW({learningRate: 1e-4})});
  const rows = [];
  for (const checkpointing of [false, true]) {
    const mine: number[] = [];
    const peer: number[] = [];
    for (let round = 0; round < rounds; round++) {
      mine.push(...(await ours(model, checkpointing)));
      if (values.python) peer.push(...theirs(values.python, threads, checkpointing));
    }
    rows.push({
      checkpointing,
      parameters: model.countParams(),
      'step ms': Math.round(median(mine)),
      'tokens/s': Math.round((1000 * batch * length) / median(mine)),
      ...(peer.length > 0 && {
        'PyTorch + PEFT ms': Math.round(median(peer)),
        'share of its rate': Number((median(peer) / median(mine)).toFixed(2)),
      }),
    });
  }
  console.table(rows);
  if (values.json) writeFileSync(values.json, JSON.stringify(rows, null, 2));
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
