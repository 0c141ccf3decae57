/**
 * Compares training steps on native TensorFlow with PyTorch + PEFT on the same cores in the same run.
 *
 *   npx tsx bench/tensorflow.ts [--only float32,nf4] [--python path/to/python] [--rounds 2] [--json file]
 *
 * The model has the shape of Llama 3.2 1B, random weights, and rank 8 on all linear layers, and trains with AdamW. The
 * cases run in turn, each time in a separate process with one step of warm-up; the times are medians. With `--python`
 * (a Python that has torch, transformers, peft and, for nf4, bitsandbytes) the last column is our rate as a share of
 * theirs.
 *
 *   float32, bfloat16   8 layers, 2 × 256 tokens, no gradient checkpointing
 *   nf4                 the same, double-quantized, products in float32; also compared with our own float32
 *   small-bfloat16      1 layer, a vocabulary of 8192, 1 × 64 tokens: PyTorch's bfloat16 takes hours for more where the
 *                       processor does not multiply it
 *   whole-nf4           all 16 layers, 1 × 512 tokens, gradient checkpointing: measures the peak of resident memory
 *   wasm                float32, 1 layer, on wasm and on tensorflow
 */
import {execFileSync} from 'node:child_process';
import {mkdtempSync, rmSync, writeFileSync} from 'node:fs';
import {availableParallelism, tmpdir} from 'node:os';
import {join} from 'node:path';
import {fileURLToPath} from 'node:url';
import {parseArgs} from 'node:util';
import {presets} from '../models/index.ts';
import {AdamW, type BackendName, Llama, useBackend} from '../src/index.ts';
import {writeRandomFolder} from './randomFolder.ts';

interface Case {
  layers: number;
  vocabulary?: number;
  batch: number;
  length: number;
  dtype: 'float32' | 'bfloat16';
  isQuantized?: boolean;
  gradientCheckpointing?: boolean;
  hasPeer?: boolean;
  backends?: BackendName[];
}

const eightLayers = {layers: 8, batch: 2, length: 256, hasPeer: true};
const CASES: Record<string, Case> = {
  float32: {...eightLayers, dtype: 'float32'},
  nf4: {...eightLayers, dtype: 'float32', isQuantized: true},
  bfloat16: {...eightLayers, dtype: 'bfloat16', hasPeer: false},
  'small-bfloat16': {layers: 1, vocabulary: 8192, batch: 1, length: 64, dtype: 'bfloat16', hasPeer: true},
  'whole-nf4': {
    layers: 16,
    batch: 1,
    length: 512,
    dtype: 'bfloat16',
    isQuantized: true,
    gradientCheckpointing: true,
  },
  wasm: {
    layers: 1,
    vocabulary: 8192,
    batch: 2,
    length: 256,
    dtype: 'float32',
    backends: ['wasm', 'tensorflow'],
  },
};

interface Measured {
  milliseconds: number[];
  peakBytes: number;
}

const STEPS = 2;

const median = (values: number[]) => [...values].sort((a, b) => a - b)[values.length >> 1];

const shapeOf = ({layers, vocabulary}: Case) => ({
  ...presets['llama-3.2-1b'],
  numHiddenLayers: layers,
  ...(vocabulary && {vocabSize: vocabulary, bosTokenId: 0, eosTokenId: 1}),
});

/** Measures one case in the separate process, and prints {@link Measured}. */
async function measure(name: string, backend: BackendName, folder: string): Promise<void> {
  const {batch, length, dtype, isQuantized, gradientCheckpointing = false} = CASES[name];
  await useBackend(backend);
  const model = await Llama.fromPretrained(folder, {
    dtype,
    ...(isQuantized && {quantization: {type: 'nf4', doubleQuant: true}}),
  });
  model.applyLoRA({rank: 8});
  model.gradientCheckpointing = gradientCheckpointing;
  model.compile({optimizer: new AdamW({learningRate: 1e-4})});
  const inputIds = Array.from({length: batch}, (_, b) =>
    Array.from({length}, (_, t) => (b * 977 + t * 31) % 8000),
  );
  const milliseconds: number[] = [];
  for (let step = 0; step <= STEPS; step++) {
    const begun = performance.now();
    await model.trainOnBatch({inputIds, labels: inputIds});
    if (step > 0) milliseconds.push(performance.now() - begun); // the first step is the warm-up
  }
  console.log(JSON.stringify({milliseconds, peakBytes: process.resourceUsage().maxRSS * 1024}));
}

function run(command: string, args: string[]): Measured {
  const output = execFileSync(command, args, {encoding: 'utf8', maxBuffer: 1 << 26});
  return JSON.parse(output.trim().split('\n').at(-1) as string) as Measured;
}

function apart(args: string[]): string[] {
  return [...process.execArgv, fileURLToPath(import.meta.url), ...args];
}

function compare(name: string, python: string | undefined, rounds: number) {
  const {
    batch,
    length,
    dtype,
    isQuantized = false,
    gradientCheckpointing = false,
    hasPeer,
    backends,
  } = CASES[name];
  const folder = mkdtempSync(join(tmpdir(), 'tfjs-lora-bench-'));
  try {
    execFileSync(process.execPath, apart(['--write', folder, '--only', name]), {stdio: 'inherit'});
    const runners: Record<string, () => Measured> = Object.fromEntries(
      (backends ?? ['tensorflow']).map((backend) => [
        backend,
        () => run(process.execPath, apart(['--measure', folder, '--only', name, '--backend', backend])),
      ]),
    );
    if (python && hasPeer) {
      const settings = {folder, batch, length, dtype, isQuantized, gradientCheckpointing};
      const args = {...settings, threads: availableParallelism(), steps: STEPS};
      const script = join(import.meta.dirname ?? __dirname, 'tensorflow_peer.py');
      runners['PyTorch + PEFT'] = () => run(python, [script, JSON.stringify(args)]);
    }
    const runs = Object.keys(runners).map((runner) => ({runner, times: [] as number[], peakBytes: 0}));
    for (let round = 0; round < rounds; round++) {
      for (const entry of runs) {
        const {milliseconds, peakBytes} = runners[entry.runner]();
        entry.times.push(...milliseconds);
        entry.peakBytes = Math.max(entry.peakBytes, peakBytes);
      }
    }
    const reference = runs.at(runs[0].runner === 'wasm' ? 0 : -1)!;
    return runs.map(({runner, times, peakBytes}) => ({
      case: name,
      runner,
      'step ms': Math.round(median(times)),
      'tokens/s': Math.round((1000 * batch * length) / median(times)),
      'peak GB': Number((peakBytes / 1e9).toFixed(2)),
      [`share of ${reference.runner}`]: Number((median(reference.times) / median(times)).toFixed(2)),
    }));
  } finally {
    rmSync(folder, {recursive: true, force: true});
  }
}

async function main(): Promise<void> {
  const {values} = parseArgs({
    options: {
      only: {type: 'string', default: Object.keys(CASES).join(',')},
      python: {type: 'string'},
      rounds: {type: 'string', default: '2'},
      backend: {type: 'string', default: 'tensorflow'},
      json: {type: 'string'},
      write: {type: 'string'},
      measure: {type: 'string'},
    },
  });
  const names = values.only.split(',');
  if (values.write) return await writeRandomFolder(values.write, shapeOf(CASES[names[0]]));
  if (values.measure) return await measure(names[0], values.backend as BackendName, values.measure);
  const rows = names.flatMap((name) => {
    const measured = compare(name, values.python, Number(values.rounds));
    console.table(measured);
    return measured;
  });
  console.log(JSON.stringify(rows));
  if (values.json) writeFileSync(values.json, JSON.stringify(rows, null, 2));
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
