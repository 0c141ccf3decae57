import {dequantizeRowsOp} from '../../../ops/dequantizeRows.ts';
import {kernel} from '../../kernel.ts';
import {runShader} from '../device/runShader.ts';
import {shader} from '../device/shader.ts';
import {times} from '../device/times.ts';
import {quantizedFormat} from './quantizedFormat.ts';
import type {WeightFormat} from './weightFormat.ts';

/** `DequantizeRows` (layers/ops/dequantizeRows.ts), a thread per eight elements of a row. */
export const dequantizeRows = kernel(dequantizeRowsOp, 'webgpu', ({inputs, attrs, backend}) => {
  const {cols, begin, end} = attrs;
  const weight = quantizedFormat(inputs, attrs);
  const y = backend.makeTensorInfo([end - begin, cols], 'float32');
  const octets = (end - begin) * Math.ceil(cols / 8);
  if (octets === 0) return y;
  runShader(backend, {
    shader: octetsOfRows(weight, cols),
    buffers: {y, ...weight.tensors},
    uniforms: {octets, begin, ...weight.values},
    threads: octets,
  });
  return y;
});

const octetsOfRows = shader((weight: WeightFormat, cols: number) => ({
  name: 'DequantizeRows',
  outputs: {y: 'f32'},
  inputs: weight.buffers,
  uniforms: {octets: 'u32', begin: 'u32', ...weight.uniforms},
  workgroup: 256,
  globals: `
const PER_ROW = ${Math.ceil(cols / 8)}u;
${weight.octet()}`,
  body: `
  ${weight.prepare}
  let i = flatGroup * WORKGROUP + local;
  if (i >= u.octets) { return; }
  let col = i % PER_ROW * 8u;
  let at = i / PER_ROW * COLS + col;
  let values = weightOctet(u.begin + i / PER_ROW, col);
  ${times(8, (i) => `if (col + ${i}u < COLS) { y[at + ${i}u] = values[${i >> 2}][${i & 3}]; }`)}`,
}));
