/**
 * Measures the loss of LoRA steps in float16, in float32 and, with Python, in PyTorch + PEFT, from the same weights on
 * the same batches, which curve_peer.py makes.
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

const [RANK, ALPHA] = [8, 16];
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
      numAttentionHeads: 2,
      numKeyValueHeads: 1,
      headDim: 64,
    },
    batch: 2,
    length: 64,
    words: 32,
  },
};

export interface LossCurvesOptions {
  /** Path of a Python with torch, transformers and peft. Without it, only our own types are compared. */
  python?: string;
  steps: number;
  /** Whether to use a model that a software driver trains in seconds. */
  isSmall: boolean;
  backend: 'webgpu' | 'tensorflow';
}

/** Measures the curves. The backend is in float32 afterwards. */
export async function lossCurves({python, steps, isSmall, backend}: LossCurvesOptions): Promise<Curves> {
  const size = SIZES[isSmall ? 'small' : 'middling'];
  if (!python) {
    const batches = randomBatches(size, steps);
    const start = async () => {
      const model = Llama.fromConfig({...size.shape, tieWordEmbeddings: true}, {dtype: 'float16', seed: 0});
      model.applyLoRA({rank: RANK, alpha: ALPHA, targetModules: 'all-linear', seed: 0});
      return model;
    };
    return {
      [HALF[backend]]: await train(start, batches, backend, HALF[backend]),
      float32: await train(start, batches, backend, 'float32'),
    };
  }
  const folder = mkdtempSync(join(tmpdir(), 'loss-curve-'));
  try {
    const settings = {...size, steps, rank: RANK, alpha: ALPHA, adam: ADAM};
    const script = join(import.meta.dirname ?? __dirname, 'curve_peer.py');
    execFileSync(python, [script, folder, JSON.stringify(settings)], {
      stdio: ['ignore', 'inherit', 'inherit'],
    });
    const {bfloat16, float32} = JSON.parse(readFileSync(join(folder, 'peer.json'), 'utf8'));
    const batches: number[][][] = JSON.parse(readFileSync(join(folder, 'batches.json'), 'utf8'));
    const start = async () => {
      const model = await Llama.fromPretrained(join(folder, 'base'), {dtype: 'float16'});
      await model.loadAdapter(join(folder, 'adapter'), {trainable: true});
      return model as Llama;
    };
    return {
      [HALF[backend]]: await train(start, batches, backend, HALF[backend]),
      float32: await train(start, batches, backend, 'float32'),
      'PyTorch bfloat16': bfloat16,
      'PyTorch float32': float32,
    };
  } finally {
    rmSync(folder, {recursive: true, force: true});
  }
}

/** Returns token ids `[steps][batch][length]` of a Markov chain, as curve_peer.py does: four successors of each token. */
function randomBatches({shape, batch, length, words}: (typeof SIZES)['small'], steps: number): number[][][] {
  let state = 1;
  const random = (below: number) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
  const tokens = Array.from({length: words}, () => random(shape.vocabSize));
  const successors = Array.from({length: words}, () => Array.from({length: 4}, () => random(words)));
  const row = () => {
    let word = random(words);
    return Array.from({length}, () => {
      const token = tokens[word];
      const place = random(20);
      word = successors[word][place < 11 ? 0 : place < 16 ? 1 : place < 19 ? 2 : 3];
      return token;
    });
  };
  return Array.from({length: steps}, () => Array.from({length: batch}, row));
}

async function train(
  start: () => Promise<Llama>,
  batches: number[][][],
  backend: 'webgpu' | 'tensorflow',
  computeDtype: BackendOptions['computeDtype'],
): Promise<number[]> {
  console.log(String(await useBackend(backend, {computeDtype})));
  const model = await start();
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
  const known = pairs(half).filter(({of, from}) => of in curves && from in curves);
  return known.map(({of, from, isBound}) => {
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
