import type {HalfDtype} from '../../../../quant/float16.ts';
import {embeddingOp} from '../../../ops/embedding.ts';
import {kernel} from '../../kernel.ts';
import {runShader} from '../device/runShader.ts';
import {shader} from '../device/shader.ts';
import {WIDEN} from './unpack16.ts';

/**
 * `Embedding` (layers/ops/embedding.ts): rows of a packed table, widened. The stock gather reads words as float32,
 * which loses bits.
 */
export const embedding = kernel(embeddingOp, 'webgpu', ({inputs, attrs, backend}) => {
  const {ids, table} = inputs;
  const {dtype, cols} = attrs;
  const [count] = ids.shape;
  const wordsPerRow = Math.ceil(cols / 2);
  const y = backend.makeTensorInfo([count, cols], 'float32');
  if (count === 0) return y;
  const words = count * wordsPerRow;
  runShader(backend, {
    shader: rowsOfTable(dtype),
    buffers: {y, ids, table},
    uniforms: {words, wordsPerRow, cols, rows: table.shape[0]},
    threads: words,
  });
  return y;
});

const rowsOfTable = shader((dtype: HalfDtype) => ({
  name: 'Embedding',
  outputs: {y: 'f32'},
  inputs: {ids: 'i32', table: 'u32'},
  uniforms: {words: 'u32', wordsPerRow: 'u32', cols: 'u32', rows: 'u32'},
  workgroup: 256,
  globals: WIDEN[dtype],
  body: `
  let i = flatGroup * WORKGROUP + local;
  if (i >= u.words) { return; }
  let row = i / u.wordsPerRow;
  let word = i % u.wordsPerRow;
  let values = widen(table[min(u32(ids[row]), u.rows - 1u) * u.wordsPerRow + word]);
  y[row * u.cols + 2u * word] = values.x;
  if (2u * word + 1u < u.cols) { y[row * u.cols + 2u * word + 1u] = values.y; }`,
}));
