import * as tf from '@tensorflow/tfjs';
import {makeSlopes, packSlopesOfRows} from '../../../../layers/kernels/webgpu/attention/packSlopes.ts';
import {BLOCK} from '../../../../layers/kernels/webgpu/device/octets.ts';
import {type RowsView, rowsView} from '../../../../layers/kernels/webgpu/device/rowsView.ts';
import type {WebGPUBackend} from '../../../../layers/kernels/webgpu/device/webgpuBackend.ts';
import {joinHeads, makeHeads, splitHeads} from '../../../../layers/kernels/webgpu/stack/headRows.ts';
import {choose, describeWebGPU, normal} from './webgpuOnly.ts';

/** The last block of octets and the last workgroup are not full, and the first sequence ends within another one. */
const SIZES = {batch: 2, length: 75, headDim: 16};
const HEADS = [4, 2];
const ROWS = SIZES.batch * SIZES.length;

/** Returns octets of `words` words row by row, without their padding. */
const rowByRow = (octets: Int32Array, words: number) =>
  Int32Array.from({length: ROWS * words}, (_, i) => {
    const [row, word] = [Math.floor(i / words), i % words];
    const octet = Math.floor(row / BLOCK) * BLOCK * (words / 4) + (word >> 2) * BLOCK + (row % BLOCK);
    return octets[4 * octet + (word % 4)];
  });

describeWebGPU('rows of heads in octets', () => {
  beforeAll(() => choose('float16'));
  afterAll(() => choose('float32'));

  test('are those that are stored row by row, bit for bit', async () => {
    const backend = tf.backend() as unknown as WebGPUBackend;
    const {batch, length, headDim} = SIZES;
    const read = async ({dataId}: tf.TensorInfo) => (await backend.read(dataId)) as Int32Array;
    const x = HEADS.map((heads, i) => normal([batch, heads, length, headDim], 1 + i, 1e-6));
    const angles = normal([1, 1, length, headDim / 2], 9);
    const tables = {cos: tf.cos(angles), sin: tf.sin(angles)};
    const parts = HEADS.map((heads, i) => ({rows: x[i], heads, isRotated: i === 0}));
    for (const isScaled of [false, true]) {
      const [octets, rows] = [true, false].map((inOctets) =>
        joinHeads(backend, parts, SIZES, {isScaled, inOctets, tables, isKept: true}),
      );
      for (const [i, {halves, scales}] of rows.entries()) {
        const [got, gotScales] = [octets[i].halves, octets[i].scales];
        expect(rowByRow(await read(got), halves.shape[1])).toEqual(await read(halves));
        if (scales) expect(await read(gotScales as tf.TensorInfo)).toEqual(await read(scales));
      }
      const heads = [octets, rows].map((joined) =>
        joined.map((rows, i) => {
          const to = makeHeads(backend, HEADS[i], SIZES, false, true);
          splitHeads(backend, [{rows, to, heads: HEADS[i], isRotated: i === 0}], SIZES, tables);
          return to;
        }),
      );
      for (const [i, split] of heads[0].entries()) expect(await read(split)).toEqual(await read(heads[1][i]));
    }
  });

  test('give the same slopes of attention', async () => {
    const backend = tf.backend() as unknown as WebGPUBackend;
    const {batch, length, headDim} = SIZES;
    const [heads] = HEADS;
    const shape = [batch, heads, length, headDim];
    const logSums = normal([batch * heads * length], 3);
    const rows = batch * length;
    const slopes = (areOctets: {dy: boolean; y: boolean}, starts = [0]) => {
      const [dy, y] = (['dy', 'y'] as const).map((name, i) => {
        const parts = [{rows: normal(shape, 1 + i), heads}];
        const options = {isScaled: name === 'dy', inOctets: areOctets[name], isKept: true};
        return joinHeads(backend, parts, SIZES, options)[0];
      });
      const made = makeSlopes(backend, batch * heads * length, headDim);
      for (const [i, begin] of starts.entries()) {
        const part = (x: RowsView) => rowsView(x, begin, (starts[i + 1] ?? rows) - begin);
        const ofPart = {halves: part(dy.halves), scales: part(dy.scales as RowsView)};
        packSlopesOfRows(backend, made, {dy: ofPart, y: part(y.halves), logSums}, {...SIZES, heads}, begin);
      }
      const {scales, rowTerms, halves} = made;
      return Promise.all(
        [scales, rowTerms, halves].map(async ({dataId, shape}) =>
          (await backend.read(dataId)).slice(0, tf.util.sizeFromShape(shape)),
        ),
      );
    };
    const expected = await slopes({dy: false, y: false});
    expect(expected[0].every((scale) => (scale as number) > 0)).toBe(true);
    for (const areOctets of [
      {dy: false, y: true},
      {dy: true, y: true},
    ])
      expect(await slopes(areOctets)).toEqual(expected);
    expect(await slopes({dy: true, y: false}, [0, 128])).toEqual(expected);
  });
});
