import {embeddingOp} from '../../../ops/embedding.ts';
import {kernel} from '../../kernel.ts';
import {runShader} from '../device/runShader.ts';
import {shader} from '../device/shader.ts';
import {times} from '../device/times.ts';
import {rowPartsOf} from './rowParts.ts';
import {storedFormat, type WeightFormat} from './weightFormat.ts';

/**
 * `Embedding` (layers/ops/embedding.ts): rows of a packed table, widened, a thread per eight numbers of a row. The stock
 * gather reads words as float32, which loses bits.
 */
export const embedding = kernel(embeddingOp, 'webgpu', ({inputs, attrs, backend}) => {
  const {ids, table} = inputs;
  const {dtype, cols} = attrs;
  const [count] = ids.shape;
  const y = backend.makeTensorInfo([count, cols], 'float32');
  if (count === 0) return y;
  const weight = storedFormat(rowPartsOf(backend, table), dtype, cols);
  const octets = count * Math.ceil(cols / 8);
  runShader(backend, {
    shader: rowsOfTable(weight, cols),
    buffers: {y, ids, ...weight.tensors},
    uniforms: {octets, rows: table.shape[0]},
    threads: octets,
  });
  return y;
});

const rowsOfTable = shader((weight: WeightFormat, cols: number) => ({
  name: 'Embedding',
  outputs: {y: 'f32'},
  inputs: {ids: 'i32', ...weight.buffers},
  uniforms: {octets: 'u32', rows: 'u32'},
  workgroup: 256,
  globals: `
const COLS = ${cols}u;
const PER_ROW = ${Math.ceil(cols / 8)}u;
${weight.octet()}`,
  body: `
  let i = flatGroup * WORKGROUP + local;
  if (i >= u.octets) { return; }
  let row = i / PER_ROW;
  let col = i % PER_ROW * 8u;
  let values = weightOctet(min(u32(ids[row]), u.rows - 1u), col);
  ${times(8, (i) => `if (col + ${i}u < COLS) { y[row * COLS + col + ${i}u] = values[${i >> 2}][${i & 3}]; }`)}`,
}));
