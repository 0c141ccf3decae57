/**
 * Measures the loss of LoRA steps in float16, in float32 and in PyTorch + PEFT, from the same weights on the same
 * batches, which curve_peer.py makes.
 */
import {execFileSync} from 'node:child_process';
import {mkdtempSync, readFileSync, rmSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {AdamW, type BackendOptions, Llama, useBackend} from '../../src/index.ts';

type Row = Record<string, string | number>;

/** The loss of each step, by the type in which the model was trained. */
export type Curves = Record<string, number[]>;

/**
 * Largest distance of 16-bit products from float32 and PyTorch's bfloat16, in the mean loss of {@link WINDOW} steps.
 */
const TOLERANCE = 0.01;
const WINDOW = 10;

/** The type in which a backend multiplies 16-bit weights. */
const HALF = {webgpu: 'float16', tensorflow: 'bfloat16'} as const;

const pairs = (half: string) => [
  {of: half, from: 'float32', isBound: true},
  {of: half, from: 'PyTorch bfloat16', isBound: true},
  {of: half, from: 'PyTorch float32', isBound: false},
  {of: 'float32', from: 'PyTorch float32', isBound: false},
  {of: 'PyTorch bfloat16', from: 'PyTorch float32', isBound: false},
];

const ADAM = {learningRate: 1e-3, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0.01};

const SIZES = {
  middling: {
    shape: {
      vocabSize: 4096,
      hiddenSize: 1024,
      intermediateSize: 2816,
      numHiddenLayers: 8,
      numAttentionHeads: 16,
      numKeyValueHeads: 4,
      headDim: 64,
    },
    batch: 4,
    length: 256,
    words: 64,
  },
  small: {
    shape: {
      vocabSize: 512,
      hiddenSize: 128,
      intermediateSize: 256,
      numHiddenLayers: 2,
      numAttentionHeads: 4,
      numKeyValueHeads: 2,
      headDim: 32,
    },
    batch: 2,
    length: 64,
    words: 32,
  },
};

export interface LossCurvesOptions {
  /** Path of a Python with torch, transformers and peft. */
  python: string;
  steps: number;
  /** Whether to use a model that a software driver trains in seconds. */
  isSmall: boolean;
  backend: 'webgpu' | 'tensorflow';
}

/** Measures the curves. The backend is in float32 afterwards. */
export async function lossCurves({python, steps, isSmall, backend}: LossCurvesOptions): Promise<Curves> {
  const folder = mkdtempSync(join(tmpdir(), 'loss-curve-'));
  try {
    const settings = {...SIZES[isSmall ? 'small' : 'middling'], steps, rank: 8, alpha: 16, adam: ADAM};
    const script = join(import.meta.dirname ?? __dirname, 'curve_peer.py');
    execFileSync(python, [script, folder, JSON.stringify(settings)], {
      stdio: ['ignore', 'inherit', 'inherit'],
    });
    const {bfloat16, float32} = JSON.parse(readFileSync(join(folder, 'peer.json'), 'utf8'));
    return {
      [HALF[backend]]: await train(folder, backend, HALF[backend]),
      float32: await train(folder, backend, 'float32'),
      'PyTorch bfloat16': bfloat16,
      'PyTorch float32': float32,
    };
  } finally {
    rmSync(folder, {recursive: true, force: true});
  }
}

async function train(
  folder: string,
  backend: 'webgpu' | 'tensorflow',
  computeDtype: BackendOptions['computeDtype'],
): Promise<number[]> {
  console.log(String(await useBackend(backend, {computeDtype})));
  const batches: number[][][] = JSON.parse(readFileSync(join(folder, 'batches.json'), 'utf8'));
  const model = await Llama.fromPretrained(join(folder, 'base'), {dtype: 'float16'});
  await model.loadAdapter(join(folder, 'adapter'), {trainable: true});
  model.compile({optimizer: new AdamW(ADAM)});
  const losses: number[] = [];
  for (const inputIds of batches) {
    losses.push((await model.trainOnBatch({inputIds, labels: inputIds})).loss);
  }
  model.dispose();
  return losses;
}

/** Returns the distances between the curves, and whether they are within the tolerance, if there is one. */
export function compareCurves(curves: Curves): Row[] {
  const half = HALF.webgpu in curves ? HALF.webgpu : HALF.tensorflow;
  return pairs(half).map(({of, from, isBound}) => {
    const smoothed = Math.max(...differences(smooth(curves[of]), smooth(curves[from])));
    const last = Math.max(...differences(curves[of], curves[from]).slice(-WINDOW));
    return {
      what: `${of} from ${from}`,
      'first loss': Number(curves[of][0].toFixed(4)),
      'last loss': Number((smooth(curves[of]).at(-1) as number).toFixed(4)),
      [`largest, over ${WINDOW} steps`]: percent(smoothed),
      [`largest of the last ${WINDOW}`]: percent(last),
      verdict: isBound ? (smoothed <= TOLERANCE ? 'within 1 %' : 'more than 1 %') : '',
    };
  });
}

const percent = (share: number) => `${(100 * share).toPrecision(3)} %`;

const differences = (a: number[], b: number[]) => a.map((loss, step) => Math.abs(loss / b[step] - 1));

/** Returns the means of {@link WINDOW} steps, one for each step with enough steps before it. */
function smooth(losses: number[]): number[] {
  const window = Math.min(WINDOW, losses.length);
  return losses.slice(window - 1).map((_, step) => {
    return losses.slice(step, step + window).reduce((sum, loss) => sum + loss, 0) / window;
  });
}
