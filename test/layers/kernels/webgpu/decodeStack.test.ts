import * as tf from '@tensorflow/tfjs';
import {decodeStack} from '../../../../layers/ops/decodeStack.ts';
import {storeQuantized} from '../../../../layers/ops/quantizedMatrix.ts';
import {
  type CachedBlock,
  PROJECTIONS,
  type StackBlock,
  type StackProjection,
} from '../../../../layers/ops/stackBlock.ts';
import type {StoredMatrix} from '../../../../layers/ops/storedMatrix.ts';
import {unpackMatrix} from '../../../../layers/ops/unpackMatrix.ts';
import {quantizeNF4} from '../../../../quant/blockwise/fourBit.ts';
import {packFloat32Rows} from '../../../../quant/float16.ts';
import {quantizeInt8} from '../../../../quant/int8.ts';
import {describeWebGPU, expectSame, normal} from './webgpuOnly.ts';

const [HEADS, GROUPS, DIM, SIZE, WIDE] = [4, 2, 64, 96, 160];
const ROWS = {q_proj: HEADS * DIM, k_proj: GROUPS * DIM, v_proj: GROUPS * DIM, o_proj: SIZE};
const SHAPES: Record<(typeof PROJECTIONS)[number], [rows: number, cols: number]> = {
  ...{q_proj: [ROWS.q_proj, SIZE], k_proj: [ROWS.k_proj, SIZE], v_proj: [ROWS.v_proj, SIZE]},
  ...{o_proj: [SIZE, HEADS * DIM], gate_proj: [WIDE, SIZE], up_proj: [WIDE, SIZE], down_proj: [SIZE, WIDE]},
};

const half = (
  values: Float32Array,
  rows: number,
  cols: number,
  dtype: 'float16' | 'bfloat16',
): StoredMatrix => {
  const words = packFloat32Rows(values, rows, cols, dtype);
  return {tensor: tf.tensor2d(words, [rows, cols / 2], 'int32'), dtype, rows, cols};
};

type Make = (values: Float32Array, rows: number, cols: number, name: string) => StoredMatrix;
const FORMATS: [string, Make][] = [
  ['float16', (values, rows, cols) => half(values, rows, cols, 'float16')],
  [
    'nf4, double-quantized',
    (values, rows, cols) =>
      storeQuantized(quantizeNF4(values, [rows, cols], {blockSize: 32, doubleQuant: true})),
  ],
  ['int8', (values, rows, cols) => storeQuantized(quantizeInt8(values, [rows, cols]))],
  [
    'mixed types',
    (values, rows, cols, name) =>
      half(values, rows, cols, name === 'k_proj' || name === 'up_proj' ? 'bfloat16' : 'float16'),
  ],
];

describeWebGPU('decodeStack', () => {
  test.each(FORMATS.map(([name, make], i) => ({name, make, batch: [5, 1, 1, 3][i]})))(
    '$name, $batch sequences: equals its composed ops, and writes the caches',
    async ({make, batch}) => {
      const blocks = await Promise.all([0, 1].map((i) => blockOf(make, 10 * i)));
      const x = normal([batch, 1, SIZE], 1) as tf.Tensor3D;
      const tables = {cos: normal([batch, 1, 1, DIM / 2], 2), sin: normal([batch, 1, 1, DIM / 2], 3)} as {
        cos: tf.Tensor4D;
        sin: tf.Tensor4D;
      };
      const segments = tf.tensor2d(
        Array.from({length: batch}, (_, b) => Array.from({length: 8}, (_, s) => Number(s >= b))),
        undefined,
        'int32',
      );
      const cachesOf = () =>
        blocks.map(
          (_, i): CachedBlock => ({
            keys: normal([batch, GROUPS, 8, DIM], 4 + i) as tf.Tensor4D,
            values: normal([batch, GROUPS, 8, DIM], 6 + i) as tf.Tensor4D,
          }),
        );
      const options = {heads: HEADS, keyValueHeads: GROUPS, epsilon: 1e-5, ...tables, segments};
      const run = (stack: StackBlock[]) => decodeStack(x, stack, cachesOf(), 5, options);
      const got = run(blocks);
      const kernel = tf.getKernel('DecodeStack', 'webgpu');
      tf.unregisterKernel('DecodeStack', 'webgpu');
      const expected = run(blocks.map(widened));
      tf.registerKernel(kernel);
      await expectSame(got.y, expected.y);
      for (const [i, {keys, values}] of got.caches.entries()) {
        await expectSame(keys, expected.caches[i].keys);
        await expectSame(values, expected.caches[i].values);
      }
    },
  );
});

/** A block with the same weights in float32, which TensorFlow.js's own products take. */
const widened = (block: StackBlock): StackBlock => ({
  ...block,
  ...Object.fromEntries(
    PROJECTIONS.map((name) => {
      const {weight} = block[name];
      const {rows, cols} = weight;
      return [name, {weight: {tensor: unpackMatrix(weight), dtype: 'float32', rows, cols}}];
    }),
  ),
});

async function blockOf(make: Make, seed: number): Promise<StackBlock> {
  const projections: [string, StackProjection][] = [];
  for (const [p, name] of PROJECTIONS.entries()) {
    const [rows, cols] = SHAPES[name];
    const values = (await normal([rows, cols], seed + p, 0.1).data()) as Float32Array;
    projections.push([name, {weight: make(values, rows, cols, name)}]);
  }
  return {
    ...(Object.fromEntries(projections) as Omit<StackBlock, 'input_layernorm' | 'post_attention_layernorm'>),
    input_layernorm: normal([SIZE], seed + 8),
    post_attention_layernorm: normal([SIZE], seed + 9),
  };
}
