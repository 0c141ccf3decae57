import {FLAT_ID, flatWorkgroups, runShader} from '../device/runShader.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';
import {type QuantizedAttributes, type QuantizedInputs, quantizedFormat} from './quantizedFormat.ts';
import {formatUniforms} from './weightFormat.ts';

interface DequantizeRowsArgs {
  inputs: QuantizedInputs;
  attrs: QuantizedAttributes & {begin: number; end: number};
  backend: unknown;
}

/** `DequantizeRows` (layers/ops/dequantizeRows.ts), a thread for eight elements of a row. */
export const dequantizeRows = {
  kernelName: 'DequantizeRows',
  backendName: 'webgpu',
  kernelFunc: (args: unknown) => {
    const {inputs, attrs, backend: anyBackend} = args as DequantizeRowsArgs;
    const backend = anyBackend as WebGPUBackend;
    const {cols, begin, end} = attrs;
    const weight = quantizedFormat(inputs, attrs);
    const format = formatUniforms(weight);
    const y = backend.makeTensorInfo([end - begin, cols], 'float32');
    const octets = (end - begin) * Math.ceil(cols / 8);
    if (octets === 0) return y;
    const write = Array.from(
      {length: 8},
      (_, i) => `if (col + ${i}u < COLS) { y[at + ${i}u] = values[${i >> 2}][${i & 3}]; }`,
    );
    const code = `
const WORKGROUP = 256u;
const PER_ROW = ${Math.ceil(cols / 8)}u;
@group(0) @binding(0) var<storage, read_write> y: array<f32>;
${weight.code(1)}
struct Uniforms { octets: u32, begin: u32${format.fields} }
@group(0) @binding(${1 + weight.tensors.length}) var<uniform> u: Uniforms;
${FLAT_ID}
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
  ${weight.prepare}
  let i = flatId(group, groups) * WORKGROUP + local;
  if (i >= u.octets) { return; }
  let col = i % PER_ROW * 8u;
  let at = i / PER_ROW * COLS + col;
  let values = weightOctet(u.begin + i / PER_ROW, col);
  ${write.join('\n')}
}`;
    runShader(backend, {
      name: 'DequantizeRows',
      code,
      outputs: [y],
      inputs: weight.tensors,
      uniforms: [{u32: octets}, {u32: begin}, ...format.values],
      workgroups: flatWorkgroups(backend, Math.ceil(octets / 256)),
    });
    return y;
  },
} as const;
