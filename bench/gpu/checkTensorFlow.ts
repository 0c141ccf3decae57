import * as tf from '@tensorflow/tfjs';
import {decodeAttention, dequantizeRows, storeQuantized} from '../../layers/index.ts';
import {adamWUpdates} from '../../layers/ops/adamWUpdates.ts';
import {attention} from '../../layers/ops/attention.ts';
import {embedding} from '../../layers/ops/embedding.ts';
import {globalNorm} from '../../layers/ops/globalNorm.ts';
import {linearCrossEntropy, linearTokenLosses} from '../../layers/ops/linearCrossEntropy.ts';
import {loraMatMul} from '../../layers/ops/loraMatMul.ts';
import {optimizerUpdates} from '../../layers/ops/optimizerUpdates.ts';
import {pack16} from '../../layers/ops/pack16.ts';
import {packFlat} from '../../layers/ops/packFlat.ts';
import {quantizedMatMul} from '../../layers/ops/quantizedMatMul.ts';
import {rmsNorm} from '../../layers/ops/rmsNorm.ts';
import {rotaryEmbedding} from '../../layers/ops/rotaryEmbedding.ts';
import {storedMatMul} from '../../layers/ops/storedMatMul.ts';
import {swiGLU} from '../../layers/ops/swiGLU.ts';
import {unpackFlat} from '../../layers/ops/unpackFlat.ts';
import {unpackMatrix} from '../../layers/ops/unpackMatrix.ts';
import {dynamicMap} from '../../quant/blockwise/codebooks.ts';
import {dequantizeBlockwise, quantizeBlockwise} from '../../quant/blockwise/dynamic8Bit.ts';
import {GroupedTensor, type MatrixShape, quantizeFP4, quantizeInt8, quantizeNF4} from '../../quant/index.ts';
import {useBackend} from '../../src/index.ts';

type Row = Record<string, string | number>;
type Case = [what: string, run: () => tf.Tensor | tf.Tensor[]];

/** Makes a matrix in groups with codes that only depend on the values. */
function grouped(
  codeType: 'uint4' | 'uint8' | 'e4m3',
  values: Float32Array,
  [rows, cols]: MatrixShape,
  isShuffled: boolean,
): GroupedTensor {
  const isFloat = codeType === 'e4m3';
  const groupShape = isFloat ? ([64, 64] as const) : ([1, 32] as const);
  const across = Math.ceil(cols / groupShape[1]);
  const groups = Math.ceil(rows / groupShape[0]) * across;
  const count = codeType === 'uint4' ? Math.ceil(values.length / 2) : values.length;
  const codes = Uint8Array.from(
    {length: count},
    (_, i) => Math.abs(values[i] * 1000) & (isFloat ? 0xb7 : 255),
  );
  const zeros = Uint8Array.from({length: groups}, (_, i) => (5 * i) & 15);
  return new GroupedTensor({
    quantType: isFloat ? 'fp8' : 'gptq',
    shape: [rows, cols],
    codeType,
    codes,
    groupShape,
    scales: Float32Array.from({length: groups}, (_, i) => (1 + (i % 7)) / 64),
    zeros: isFloat ? undefined : zeros,
    groupIndex: isShuffled ? Int32Array.from({length: cols}, (_, i) => (3 * i) % across) : undefined,
    dtype: isFloat ? 'bfloat16' : 'float16',
  });
}

const FORMATS = {
  nf4: quantizeNF4,
  'nf4 double': (values: Float32Array, shape: [number, number]) =>
    quantizeNF4(values, shape, {doubleQuant: true}),
  fp4: quantizeFP4,
  int8: quantizeInt8,
  'int8 with outliers': (values: Float32Array, shape: [number, number]) =>
    quantizeInt8(values, shape, {threshold: 3}),
  'GPTQ in order': (values: Float32Array, shape: [number, number]) => grouped('uint4', values, shape, false),
  'GPTQ with act-order': (values: Float32Array, shape: [number, number]) =>
    grouped('uint4', values, shape, true),
  'GPTQ of 8 bits': (values: Float32Array, shape: [number, number]) => grouped('uint8', values, shape, false),
  '8-bit floats in blocks': (values: Float32Array, shape: [number, number]) =>
    grouped('e4m3', values, shape, false),
};

/** Makes the same numbers on every backend, from a seed other than 0. */
function normal<T extends tf.Tensor>(shape: number[], seed: number, deviation = 1): T {
  const host = tf.randomNormal(shape, 0, deviation, 'float32', seed);
  return host as T;
}

/** Returns the value of `run`, followed by its gradients with respect to `inputs`. */
function withGradients(run: (...inputs: never[]) => tf.Tensor, inputs: tf.Tensor[]): tf.Tensor[] {
  const y = run(...(inputs as never[]));
  const dy = normal(y.shape, 99);
  return [y, ...tf.grads(run as never)(inputs, dy)];
}

/**
 * Tolerances for sums in another order, and for TF32, in which a card multiplies unless `NVIDIA_TF32_OVERRIDE` is 0.
 */
const [FLOAT32_ERROR, TF32_ERROR] = [1e-5, 3e-3];

/**
 * Compares each kernel of the `tensorflow` backend, on any device, with the plain JavaScript of `cpu`: the largest
 * difference, divided by the largest expected magnitude. The backend is in float32 afterwards.
 */
export async function checkTensorFlow(): Promise<Row[]> {
  const got = await valuesOn('tensorflow');
  const expected = await valuesOn('cpu');
  await useBackend('tensorflow', {computeDtype: 'float32'});
  const limit = process.env.NVIDIA_TF32_OVERRIDE === '0' ? FLOAT32_ERROR : TF32_ERROR;
  return cases().map(([what], i) => {
    const error = Math.max(...got[i].map((values, k) => errorOf(values, expected[i][k])));
    return {what, error: Number(error.toExponential(1)), verdict: error <= limit ? 'right' : 'WRONG'};
  });
}

async function valuesOn(backend: 'tensorflow' | 'cpu'): Promise<ArrayLike<number>[][]> {
  await useBackend(backend, backend === 'tensorflow' ? {computeDtype: 'float32'} : {});
  const all: ArrayLike<number>[][] = [];
  for (const [, run] of cases()) {
    const results = tf.tidy(() => [run()].flat() as tf.Tensor[]);
    all.push(await Promise.all(results.map((tensor) => tensor.data())));
    tf.dispose(results);
  }
  return all;
}

function errorOf(got: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (got.length !== expected.length) return Number.NaN;
  let [difference, largest] = [0, 0];
  for (let i = 0; i < got.length; i++) {
    const apart = Math.abs(got[i] - expected[i]);
    if (!(apart <= difference)) difference = apart; // keeps NaN
    largest = Math.max(largest, Math.abs(expected[i]));
  }
  return difference / largest;
}

function cases(): Case[] {
  return [
    ...productCases(),
    ...attentionCases(),
    ...[2048, 33].map(
      (width): Case => [
        `rmsNorm of 300 × ${width}`,
        () => {
          const weight = normal<tf.Tensor1D>([width], 2);
          return withGradients((x: tf.Tensor) => rmsNorm(x, weight), [normal([300, width], 1)]);
        },
      ],
    ),
    [
      'adamWUpdates of 5 variables',
      () => {
        const updates = [[8, 2048], [7], [1, 1], [300, 77], [5000, 33]].map((shape, i) => ({
          value: normal(shape, 4 * i + 1),
          gradient: normal(shape, 4 * i + 2),
          mean: normal(shape, 4 * i + 3, 0.1),
          variance: tf.square(normal(shape, 4 * i + 4)),
        }));
        const settings = {
          learningRate: 0.01,
          beta1: 0.9,
          beta2: 0.999,
          epsilon: 1e-8,
          weightDecay: 0.1,
          step: 3,
        };
        return adamWUpdates(updates, settings).flat();
      },
    ],
    ...optimizerCases(),
    [
      'globalNorm of 3 tensors',
      () => globalNorm([[8, 2048], [7], [5000, 33]].map((shape, i) => normal(shape, i + 1))),
    ],
    [
      'packFlat and unpackFlat of 4 tensors',
      () => {
        const shapes = [[8, 2048], [], [7], [5000, 33]];
        const flat = packFlat(shapes.map((shape, i) => normal(shape, i + 1)));
        return [flat, ...unpackFlat(flat, shapes)];
      },
    ],
    [
      'rotaryEmbedding of 2 × 4 × 100 × 64',
      () => {
        const [cos, sin] = [3, 4].map((seed) => normal<tf.Tensor4D>([1, 1, 100, 32], seed));
        return withGradients((x: tf.Tensor4D) => rotaryEmbedding(x, cos, sin), [normal([2, 4, 100, 64], 1)]);
      },
    ],
    [
      'swiGLU of 300 × 1024',
      () => withGradients(swiGLU as never, [normal([300, 1024], 1, 3), normal([300, 1024], 2)]),
    ],
    ...Object.entries({linearCrossEntropy, linearTokenLosses}).map(
      ([name, loss]): Case => [
        `${name} of 300 × 64 and 1000 words`,
        () => {
          const weight = halfMatrix('float16', 1000, 64);
          const labels = tf.tensor1d(
            Array.from({length: 300}, (_, i) => (i % 7 === 0 ? -100 : (i * 31) % 1000)),
            'int32',
          );
          return withGradients(
            (hidden: tf.Tensor2D) => loss(hidden, weight, labels) as tf.Tensor,
            [normal([300, 64], 1)],
          );
        },
      ],
    ),
  ];
}

/**
 * Makes updates of 5 variables, whose 8-bit states are compared as values. Only AdamW clips, because a norm that is
 * rounded differently may change a code.
 */
function optimizerCases(): Case[] {
  const settings = {learningRate: 0.01, beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weightDecay: 0.1, step: 3};
  const shapes = [[8, 2048], [7], [1, 1], [300, 77], [5000, 33]];
  const kinds = {AdamW: [], Lion: [], Lion8bit: [true], AdamW8bit: [true, false]} as const;
  return (['AdamW', 'Lion', 'Lion8bit', 'AdamW8bit'] as const).map((rule): Case => {
    const areSigned = kinds[rule];
    const run = () => {
      const updates = shapes.map((shape, i) => {
        const drawn = (k: number) => normal(shape, 4 * i + k, 0.1);
        const packed = areSigned.flatMap((isSigned, k) => {
          const mean = drawn(k + 3);
          const values = isSigned ? mean : tf.square(mean);
          const {codes, absmax} = quantizeBlockwise(values.dataSync() as Float32Array, {
            map: dynamicMap(isSigned),
          });
          const bytes = new Uint8Array(4 * Math.ceil(codes.length / 4));
          bytes.set(codes);
          return [tf.tensor1d(new Int32Array(bytes.buffer), 'int32'), tf.tensor1d(absmax)];
        });
        const wide = {AdamW: [drawn(3), tf.square(drawn(4))], Lion: [drawn(3)]};
        const state = rule === 'AdamW' || rule === 'Lion' ? wide[rule] : packed;
        return {value: normal(shape, 4 * i + 1), gradient: normal(shape, 4 * i + 2), state};
      });
      const norm = globalNorm(updates.map(({gradient}) => gradient));
      const clipping = rule === 'AdamW' ? {norm, maxNorm: 100} : undefined;
      return optimizerUpdates(updates, {rule, settings}, clipping).flatMap(([value, ...next]) => {
        if (areSigned.length === 0) return [value, ...next];
        const states = areSigned.flatMap((isSigned, k) => {
          const [words, absmax] = next.slice(2 * k).map((tensor) => tensor.dataSync());
          const codes = new Uint8Array(Int32Array.from(words).buffer).subarray(0, value.size);
          return tf.tensor1d(
            dequantizeBlockwise({codes, absmax: absmax as Float32Array}, {map: dynamicMap(isSigned)}),
          );
        });
        return [value, ...states];
      });
    };
    return [`${rule} of 5 variables`, run];
  });
}

const halfMatrix = (dtype: 'float16' | 'bfloat16', rows: number, cols: number) => ({
  tensor: pack16(normal<tf.Tensor2D>([rows, cols], 7, 0.1), dtype),
  dtype,
  rows,
  cols,
});

function productCases(): Case[] {
  const cases: Case[] = [
    ['float32 512 × 512 × 512', () => normal([512, 512], 1).matMul(normal([512, 512], 2))],
  ];
  for (const dtype of ['float16', 'bfloat16'] as const) {
    for (const [rows, cols] of [
      [256, 512],
      [300, 77],
    ]) {
      const weight = () => halfMatrix(dtype, rows, cols);
      cases.push(
        [`pack16 and unpack16 of ${dtype} [${rows}, ${cols}]`, () => unpackMatrix(weight())],
        [
          `embedding of ${dtype} [${rows}, ${cols}]`,
          () => embedding(tf.tensor1d([5, 0, rows - 1, 5], 'int32'), weight()),
        ],
        [
          `storedMatMul of ${dtype} [${rows}, ${cols}]`,
          () => [
            storedMatMul(normal([130, cols], 3), weight(), true),
            storedMatMul(normal([130, rows], 3), weight(), false),
          ],
        ],
        [
          `stored words of ${dtype} [${rows}, ${cols}], after a product`,
          () => {
            const {tensor, ...matrix} = weight();
            storedMatMul(normal([3, cols], 3), {tensor, ...matrix}, true);
            return tensor;
          },
        ],
        [
          `loraMatMul of ${dtype} [${rows}, ${cols}]`,
          () => {
            const inputs = [normal([130, cols], 3), normal([8, cols], 4), normal([rows, 8], 5)];
            return withGradients(
              ((x: tf.Tensor2D, a: tf.Tensor2D, b: tf.Tensor2D) => loraMatMul(x, weight(), a, b, 2)) as never,
              inputs,
            );
          },
        ],
      );
    }
  }
  for (const [name, quantize] of Object.entries(FORMATS)) {
    for (const shape of [
      [192, 256],
      [50, 77],
    ] as [number, number][]) {
      const values = Float32Array.from(
        {length: shape[0] * shape[1]},
        (_, i) => Math.sin(i * i) * (1 + (i % 97 === 0 ? 4 : 0)),
      );
      const weight = () => storeQuantized(quantize(values, shape));
      cases.push(
        [`rows of ${name} [${shape}]`, () => [dequantizeRows(weight()), dequantizeRows(weight(), 3, 11)]],
        [
          `quantizedMatMul of ${name} [${shape}]`,
          () => [
            quantizedMatMul(normal([130, shape[1]], 3), weight(), true),
            quantizedMatMul(normal([130, shape[0]], 3), weight(), false),
          ],
        ],
      );
    }
  }
  return cases;
}

function attentionCases(): Case[] {
  const cases = [
    [1, 4, 2, 128, 128, 64, false],
    [2, 8, 2, 300, 300, 64, true],
    [1, 4, 1, 200, 330, 32, false],
    [2, 8, 2, 1500, 1500, 4, false],
  ].map((sizes): Case => {
    const [batch, heads, groups, length, sourceLength, dim] = sizes as number[];
    const isPacked = sizes[6] as boolean;
    const make = (count: number, size: number, seed: number) => normal([batch, count, size, dim], seed);
    return [
      `attention of ${batch} × ${heads}/${groups} × ${length} of ${sourceLength} × ${dim}${isPacked ? ', packed' : ''}`,
      () => {
        const numbers = Int32Array.from({length: batch * sourceLength}, (_, t) => 1 + Math.floor(t / 100));
        const segments = isPacked ? tf.tensor2d(numbers, [batch, sourceLength], 'int32') : undefined;
        const inputs = [make(heads, length, 1), make(groups, sourceLength, 2), make(groups, sourceLength, 3)];
        return withGradients(
          ((q: tf.Tensor4D, k: tf.Tensor4D, v: tf.Tensor4D) =>
            attention(q, k, v, {causal: true, segments})) as never,
          inputs,
        );
      },
    ];
  });
  const decode: Case = [
    'decodeAttention of 2 × 4/2 × 64, 100 of 128 positions',
    () => {
      const seen = (cache: tf.Tensor4D) => cache.slice([0, 0, 0, 0], [-1, -1, 101, -1]);
      const [attended, keys, values] = decodeAttention(
        {
          query: normal([2, 256], 1),
          key: normal([2, 128], 2),
          value: normal([2, 128], 3),
          cos: normal([1, 1, 1, 32], 4),
          sin: normal([1, 1, 1, 32], 5),
          keys: normal([2, 2, 128, 64], 6),
          values: normal([2, 2, 128, 64], 7),
        },
        100,
      );
      return [attended, seen(keys), seen(values)];
    },
  ];
  return [...cases, decode];
}
