import * as tf from '@tensorflow/tfjs';
import {decoderStack, decoderStackOp} from '../../layers/ops/decoderStack.ts';
import {hasKernel} from '../../layers/ops/dispatch.ts';
import type {GradientCheckpointing} from '../../layers/ops/gradientCheckpointing.ts';
import {greedyChoice} from '../../layers/ops/greedyChoice.ts';
import {linearCrossEntropy, linearTokenLosses} from '../../layers/ops/linearCrossEntropy.ts';
import {pack16} from '../../layers/ops/pack16.ts';
import {storeQuantized} from '../../layers/ops/quantizedMatrix.ts';
import {PROJECTIONS, type StackBlock} from '../../layers/ops/stackBlock.ts';
import type {StoredMatrix} from '../../layers/ops/storedMatrix.ts';
import type {QuantizationType} from '../../layers/quantizationArgs.ts';
import {generateIds} from '../../models/index.ts';
import {quantizeFP4, quantizeInt8, quantizeNF4} from '../../quant/index.ts';
import {Llama, useBackend} from '../../src/index.ts';

type Row = Record<string, string | number>;
/** Values by their names: `y`, `dx`, `0.q_proj.a`. */
type Values = Record<string, Float32Array>;

const DTYPES = ['bfloat16', 'float16', 'nf4', 'nf4 double', 'fp4', 'int8'] as const;
type Dtype = (typeof DTYPES)[number];

interface Case {
  dtype: Dtype;
  batch: number;
  length: number;
  heads: number;
  keyValueHeads: number;
  headDim: number;
  hidden: number;
  intermediate: number;
  blocks: number;
  rank: number;
  adapted: readonly string[];
  checkpointing: GradientCheckpointing;
  isInputTrained: boolean;
  /** Whether a row has several packed sequences with padding after them. */
  isPacked: boolean;
  /** Whether each row of the batch has its own positions. */
  hasOwnPositions: boolean;
}

const COMMON: Case = {
  ...{dtype: 'bfloat16', batch: 2, length: 100, heads: 4, keyValueHeads: 2, headDim: 64, hidden: 256},
  ...{
    intermediate: 512,
    blocks: 2,
    rank: 8,
    adapted: PROJECTIONS,
    checkpointing: true,
    isInputTrained: true,
  },
  ...{isPacked: false, hasOwnPositions: false},
};

const CASES: Partial<Case>[] = [
  ...DTYPES.map((dtype) => ({dtype})),
  {checkpointing: false},
  {checkpointing: 'offload'},
  {checkpointing: 'offload', isPacked: true, blocks: 5, length: 257, dtype: 'nf4 double'},
  {isPacked: true},
  {isPacked: true, checkpointing: false, length: 257, hasOwnPositions: true},
  {headDim: 128, heads: 2, keyValueHeads: 1, length: 130, rank: 4, adapted: ['q_proj', 'v_proj']},
  {
    headDim: 128,
    heads: 3,
    keyValueHeads: 3,
    hidden: 136,
    intermediate: 200,
    length: 65,
    rank: 3,
    isPacked: true,
  },
  {
    dtype: 'nf4 double',
    hidden: 192,
    intermediate: 328,
    length: 33,
    batch: 3,
    blocks: 3,
    isInputTrained: false,
  },
  {length: 1, batch: 5},
  {rank: 64, adapted: ['gate_proj', 'down_proj', 'k_proj']},
  {adapted: []},
];

const normal = (shape: number[], seed: number, deviation = 1) =>
  tf.randomNormal(shape, 0, deviation, 'float32', seed);

/** Makes the same weights on every backend, quantized from the same numbers on the host. */
function matrix(dtype: Dtype, rows: number, cols: number, seed: number): StoredMatrix {
  if (dtype === 'bfloat16' || dtype === 'float16')
    return {
      tensor: pack16(normal([rows, cols], seed, cols ** -0.5) as tf.Tensor2D, dtype),
      dtype,
      rows,
      cols,
    };
  const values = tf.tidy(() => normal([rows, cols], seed, cols ** -0.5).dataSync()) as Float32Array;
  const shape: [number, number] = [rows, cols];
  if (dtype === 'int8') return storeQuantized(quantizeInt8(values, shape));
  if (dtype === 'fp4') return storeQuantized(quantizeFP4(values, shape));
  return storeQuantized(quantizeNF4(values, shape, {doubleQuant: dtype === 'nf4 double'}));
}

function blocksOf({blocks, dtype, hidden, intermediate, heads, keyValueHeads, headDim, rank, adapted}: Case) {
  const sizes: Record<(typeof PROJECTIONS)[number], [number, number]> = {
    q_proj: [heads * headDim, hidden],
    k_proj: [keyValueHeads * headDim, hidden],
    v_proj: [keyValueHeads * headDim, hidden],
    o_proj: [hidden, heads * headDim],
    gate_proj: [intermediate, hidden],
    up_proj: [intermediate, hidden],
    down_proj: [hidden, intermediate],
  };
  return Array.from({length: blocks}, (_, i) => {
    const projections = PROJECTIONS.map((name, j) => {
      const [rows, cols] = sizes[name];
      const seed = 1000 * i + 10 * j;
      const lora = {
        a: normal([rank, cols], seed + 2, cols ** -0.5) as tf.Tensor2D,
        b: normal([rows, rank], seed + 3, rank ** -0.5) as tf.Tensor2D,
        scaling: 0.5,
      };
      return [name, {weight: matrix(dtype, rows, cols, seed + 1), ...(adapted.includes(name) && {lora})}];
    });
    const norm = (seed: number) => tf.variable(tf.add(normal([hidden], seed, 0.1), 1), false);
    return {
      ...Object.fromEntries(projections),
      input_layernorm: norm(1000 * i + 90),
      post_attention_layernorm: norm(1000 * i + 91),
    } as StackBlock;
  });
}

/** Makes a mask `[B, T]`: three sequences in a row, then padding, whose results have no meaning. */
function segmentsOf({batch, length}: Case): tf.Tensor2D {
  const numbers = Int32Array.from({length: batch * length}, (_, i) => {
    const [row, t] = [Math.floor(i / length), i % length];
    return t > length - 3 - 7 * row ? 0 : 1 + Math.floor((3 * t) / length);
  });
  return tf.tensor2d(numbers, [batch, length], 'int32');
}

/** Makes rotary tables on the host, because a card's own cosine may be off by 2⁻¹¹. */
function tablesOf({batch, length, headDim, hasOwnPositions}: Case): [cos: tf.Tensor4D, sin: tf.Tensor4D] {
  const [rows, half] = [hasOwnPositions ? batch : 1, headDim / 2];
  const angles = Float32Array.from({length: rows * length * half}, (_, i) => {
    const [row, t] = [Math.floor(i / half / length), Math.floor(i / half) % length];
    return (t + 3 * row) * 10000 ** (-(i % half) / half);
  });
  const shape: [number, number, number, number] = [rows, 1, length, half];
  return [tf.tensor4d(angles.map(Math.cos), shape), tf.tensor4d(angles.map(Math.sin), shape)];
}

/** Computes value and gradients of a case on the current backend. */
async function run(given: Case): Promise<Values> {
  const {batch, length, hidden, heads, keyValueHeads, isInputTrained} = given;
  const checkpointing = hasKernel(decoderStackOp) ? given.checkpointing : given.checkpointing !== false;
  const before = new Set(Object.keys(tf.engine().registeredVariables));
  const results = tf.tidy(() => {
    const blocks = blocksOf(given);
    const x = normal([batch, length, hidden], 1) as tf.Tensor3D;
    const [cos, sin] = tablesOf(given);
    const segments = given.isPacked ? segmentsOf(given) : undefined;
    const counted = segments ? tf.cast(tf.notEqual(segments, 0), 'float32').expandDims(2) : tf.scalar(1);
    const dy = tf.mul(normal([batch, length, hidden], 99), counted);
    const options = {heads, keyValueHeads, epsilon: 1e-5, cos, sin, segments, checkpointing, isInputTrained};
    const adapters = blocks.flatMap((block, i) =>
      PROJECTIONS.flatMap((name) => {
        const {lora} = block[name];
        return lora
          ? ([
              [`${i}.${name}.a`, lora.a],
              [`${i}.${name}.b`, lora.b],
            ] as [string, tf.Tensor][])
          : [];
      }),
    );
    // Gradients are taken with respect to variables, which stay in the blocks meanwhile.
    const sources: [string, tf.Tensor][] = [
      ...(isInputTrained ? ([['x', x]] as [string, tf.Tensor][]) : []),
      ...adapters,
    ];
    const stack = () => decoderStack(x, blocks, options);
    const values: tf.NamedTensorMap = {y: tf.mul(stack(), counted)};
    if (sources.length > 0) {
      const {grads} = tf.engine().gradients(
        stack,
        sources.map(([, tensor]) => tensor),
        dy as tf.Tensor3D,
        true,
      );
      for (const [i, [name]] of sources.entries()) values[`d ${name}`] = grads[i];
    }
    return values;
  });
  const values: Values = {};
  for (const [name, tensor] of Object.entries(results)) values[name] = (await tensor.data()) as Float32Array;
  tf.dispose(results);
  for (const [name, variable] of Object.entries(tf.engine().registeredVariables))
    if (!before.has(name)) variable.dispose();
  return values;
}

/** Computes the loss of a head with 1008 words, or a weighted sum of each row's, and its gradient. */
async function runLoss(dtype: Dtype, rows: number, ofEachRow: boolean): Promise<Values> {
  const results = tf.tidy(() => {
    const weight = matrix(dtype, 1008, 256, 5);
    const labels = Int32Array.from({length: rows}, (_, i) => (i % 7 === 0 ? -100 : (i * 31) % 1008));
    const hidden = normal([rows, 256], 1);
    const loss = (hidden: tf.Tensor) => {
      const targets = tf.tensor1d(labels, 'int32');
      if (!ofEachRow) return linearCrossEntropy(hidden as tf.Tensor2D, weight, targets);
      return tf.sum(
        tf.mul(linearTokenLosses(hidden as tf.Tensor2D, weight, targets), normal([rows], 9)),
      ) as tf.Scalar;
    };
    const {value, grad} = tf.valueAndGrad(loss)(hidden);
    return {y: value, 'd x': grad};
  });
  const values = {
    y: (await results.y.data()) as Float32Array,
    'd x': (await results['d x'].data()) as Float32Array,
  };
  tf.dispose(results);
  return values;
}

/**
 * Logits of ragged widths, with equals among the largest, and with numbers that are none: all choices must be the
 * composed ops' own.
 */
async function runChoices(): Promise<Values> {
  const values: Values = {};
  for (const width of [1, 31, 1000, 1025, 128_257]) {
    const logits = normal([7, width], width).dataSync() as Float32Array;
    const at = (row: number, place: number) => row * width + Math.min(place, width - 1);
    const most = logits.subarray(width, 2 * width).reduce((a, b) => Math.max(a, b)) + 1;
    for (const place of [width - 1, 17, 900]) logits[at(1, place)] = most;
    for (const place of [700, 5]) logits[at(2, place)] = Number.NaN;
    logits[at(3, 3)] = Infinity;
    logits[at(4, width)] = -Infinity;
    logits.fill(0, 5 * width, 6 * width);
    logits.fill(-3e38, 6 * width);
    const choice = tf.tidy(() => greedyChoice(tf.tensor2d(logits, [7, width])));
    values[`width ${width}`] = Float32Array.from(await choice.data());
    choice.dispose();
  }
  return values;
}

/**
 * Returns how far the logits of the tokens that a small model chooses are below the largest, as a share of it, measured
 * with whole passes of the composed ops. The result is 0 if every token is the likeliest.
 */
async function runGreedy(card: () => Promise<unknown>, quantization?: QuantizationType): Promise<Row> {
  await card();
  const shape = {
    vocabSize: 1024,
    hiddenSize: 256,
    intermediateSize: 512,
    numHiddenLayers: 2,
    initializerRange: 0.3,
  };
  const config = {
    ...shape,
    numAttentionHeads: 4,
    numKeyValueHeads: 2,
    maxPositionEmbeddings: 512,
    tieWordEmbeddings: true,
  };
  const model = Llama.fromConfig(config, {dtype: 'bfloat16', seed: 1});
  if (quantization) await model.quantize({type: quantization, doubleQuant: quantization === 'nf4'});
  model.applyLoRA({rank: 4, alpha: 8, targetModules: 'all-linear', seed: 1});
  const prompts = [[31, 62, 93], [5]];
  const options = {doSample: false, eosTokenId: []};
  const [rows, [alone]] = [
    await generateIds(model, prompts, {...options, maxNewTokens: 300}),
    await generateIds(model, prompts.slice(1), {...options, maxNewTokens: 300}),
  ];
  const samePrefix = rows[1].findIndex((id, i) => id !== alone[i]);
  await useBackend('tensorflow', {computeDtype: 'float32', fusedOps: false});
  let behind = 0;
  for (const [row, prompt] of prompts.entries()) {
    const ids = [...prompt, ...rows[row]];
    const logits = (await tf.tidy(() => model.predict([ids])).data()) as Float32Array;
    for (let at = prompt.length; at < ids.length; at++) {
      const own = logits.subarray((at - 1) * 1024, at * 1024);
      const largest = own.reduce((most, x) => Math.max(most, x), -Infinity);
      const scale = own.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
      behind = Math.max(behind, (largest - own[ids[at]]) / scale);
    }
  }
  model.dispose();
  return {
    what: `300 greedy tokens, ${quantization ?? 'bfloat16'}`,
    error: Number(behind.toExponential(1)),
    of: samePrefix < 0 ? 'the same alone' : `alone another token ${samePrefix}`,
    verdict: behind <= 0.03 ? 'right' : 'WRONG', // the pass of the prompt is in bfloat16
  };
}

/** Returns the largest difference over all values, as a share of the largest number, and the value that has it. */
function errorOf(got: Values, expected: Values): {error: number; worst: string} {
  let [error, worst] = [0, ''];
  for (const [name, wanted] of Object.entries(expected)) {
    const values = got[name];
    let [difference, largest] = [0, 0];
    for (let i = 0; i < wanted.length; i++) {
      const apart = Math.abs(values[i] - wanted[i]);
      if (!(apart <= difference)) difference = apart; // keeps NaN
      largest = Math.max(largest, Math.abs(wanted[i]));
    }
    const part = difference / largest;
    if (!(part <= error)) [error, worst] = [part, name];
  }
  return {error, worst};
}

/**
 * Checks the ops that only a card has, with activations in bfloat16. They and the composed ops in bfloat16 on the card
 * are compared with the composed ops in float32, which must not be TF32 (`NVIDIA_TF32_OVERRIDE=0`). Their error may be
 * three times that of the composed ops, or a hundredth, because they round activations between ops to bfloat16 too, as
 * PyTorch does. The result is empty if there are no such ops.
 */
export async function checkCard(): Promise<Row[]> {
  const card = () => useBackend('tensorflow', {computeDtype: 'bfloat16', fusedOps: true});
  await card();
  if (!hasKernel(decoderStackOp)) return [];
  const checks: [string, () => Promise<Values>][] = [
    ...CASES.map((differing): [string, () => Promise<Values>] => {
      const text = Object.entries(differing).map(([name, value]) =>
        name === 'dtype' ? value : `${name} ${value}`,
      );
      return [`decoderStack, ${text.join(', ')}`, () => run({...COMMON, ...differing})];
    }),
    ...(['bfloat16', 'float16', 'nf4 double'] as const).map((dtype): [string, () => Promise<Values>] => [
      `linearCrossEntropy, ${dtype}`,
      () => runLoss(dtype, 301, false),
    ]),
    ['linearTokenLosses, float16', () => runLoss('float16', 301, true)],
    ['linearTokenLosses, nf4 double', () => runLoss('nf4 double', 301, true)],
  ];
  const all: Values[][] = [];
  const ways: [string, () => Promise<unknown>][] = [
    ['the card’s own ops', card],
    ['composed in bfloat16', () => useBackend('tensorflow', {computeDtype: 'bfloat16', fusedOps: false})],
    ['composed in float32', () => useBackend('tensorflow', {computeDtype: 'float32', fusedOps: false})],
  ];
  for (const [way, start] of ways) {
    await start();
    const values: Values[] = [];
    for (const [what, compute] of checks) {
      const begun = performance.now();
      values.push(await compute());
      console.error(`${way}: ${what}: ${Math.round(performance.now() - begun)} ms`); // a kernel that hangs has a name
    }
    all.push(values);
  }
  const choices = [await runChoices()];
  await card();
  choices.push(await runChoices());
  const greedy = [await runGreedy(card), await runGreedy(card, 'nf4')];
  await card();
  const [got, composed, exact] = all;
  const wrongChoices = Object.keys(choices[0]).filter(
    (name) => `${choices[0][name]}` !== `${choices[1][name]}`,
  );
  const ofChoices = {
    what: 'greedyChoice',
    error: wrongChoices.length,
    of: wrongChoices.join(', '),
    verdict: wrongChoices.length === 0 ? 'right' : 'WRONG',
  };
  const ofOps = checks.map(([what], i) => {
    const {error, worst} = errorOf(got[i], exact[i]);
    const yardstick = errorOf(composed[i], exact[i]).error;
    return {
      what,
      error: Number(error.toExponential(1)),
      of: worst,
      'composed bfloat16': Number(yardstick.toExponential(1)),
      verdict: error <= Math.max(3 * yardstick, 0.01) ? 'right' : 'WRONG',
    };
  });
  return [...ofOps, ofChoices, ...greedy];
}
