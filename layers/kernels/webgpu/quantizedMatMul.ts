import type * as tf from '@tensorflow/tfjs';
import {multiply} from './multiply.ts';
import {type QuantizedAttributes, type QuantizedInputs, quantizedFormat} from './quantizedFormat.ts';
import {FLAT_ID, flatWorkgroups, runShader} from './runShader.ts';
import {shaderText} from './shaderText.ts';
import {capabilitiesOf, type WebGPUBackend} from './webgpuBackend.ts';
import {CONVERTED_HALVES, formatUniforms, storedFormat, type WeightFormat} from './weightFormat.ts';

interface QuantizedMatMulArgs {
  inputs: QuantizedInputs & {x: tf.TensorInfo};
  attrs: QuantizedAttributes & {transposeWeight: boolean};
  backend: unknown;
}

/** From so many rows on, a weight that is dequantized once for all tiles costs less than doing it in each. */
const MANY_ROWS = 256;

/**
 * `QuantizedMatMul` (layers/ops/quantizedMatMul.ts): the weight is dequantized inside the product, or, for many rows in
 * float16, just before it, into a matrix that goes again at once.
 */
export const quantizedMatMul = {
  kernelName: 'QuantizedMatMul',
  backendName: 'webgpu',
  kernelFunc: (args: unknown) => {
    const {inputs, attrs, backend: anyBackend} = args as QuantizedMatMulArgs;
    const backend = anyBackend as WebGPUBackend;
    const {rows, cols, transposeWeight} = attrs;
    const {x} = inputs;
    const weight = keptFormat(inputs, attrs);
    const {computeDtype} = capabilitiesOf(backend);
    if (computeDtype === 'float32' || x.shape[0] < MANY_ROWS || cols % 8 !== 0) {
      return multiply(backend, {x, weight, rows, cols, transposeWeight});
    }
    const halves = dequantizedHalves(backend, weight, rows, cols);
    const y = multiply(backend, {
      x,
      weight: storedFormat(halves, 'float16', cols),
      rows,
      cols,
      transposeWeight,
    });
    backend.disposeData(halves.dataId);
    return y;
  },
} as const;

/** Formats by their attributes, with the names of their tensors. */
const formats = new Map<string, WeightFormat & {names: (keyof QuantizedInputs)[]}>();
const MAX_FORMATS = 4096;

/** {@link quantizedFormat}, its texts built once for a matrix's attributes. */
function keptFormat(inputs: QuantizedInputs, attributes: QuantizedAttributes): WeightFormat {
  const {dtype, rows, cols, blockSize, nestedBlockSize, offset, outliers, outlierDtype} = attributes;
  const key = `${dtype} ${rows} ${cols} ${blockSize} ${nestedBlockSize} ${outliers} ${outlierDtype}`;
  const kept = formats.get(`${key} ${offset}`);
  if (kept) return {...kept, tensors: kept.names.map((name) => inputs[name])};
  const format = {...quantizedFormat(inputs, attributes), key};
  const given = Object.keys(inputs) as (keyof QuantizedInputs)[];
  const names = format.tensors.map((tensor) => given.find((name) => inputs[name] === tensor)) as typeof given;
  if (formats.size >= MAX_FORMATS) formats.clear();
  formats.set(`${key} ${offset}`, {...format, tensors: [], names});
  return format;
}

/** The whole weight as float16, int32 `[rows, cols / 2]`; `cols` a multiple of 8. */
function dequantizedHalves(
  backend: WebGPUBackend,
  weight: WeightFormat,
  rows: number,
  cols: number,
): tf.TensorInfo {
  const halves = backend.makeTensorInfo([rows, cols / 2], 'int32');
  const format = formatUniforms(weight);
  const octets = (rows * cols) / 8;
  const code = shaderText(
    weight.key && `DequantizeHalves ${weight.key}`,
    () => `
enable f16;
const WORKGROUP = 256u;
@group(0) @binding(0) var<storage, read_write> halves: array<vec4u>;
${weight.code(1)}
${CONVERTED_HALVES}
struct Uniforms { octets: u32${format.fields} }
@group(0) @binding(${1 + weight.tensors.length}) var<uniform> u: Uniforms;
${FLAT_ID}
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
  ${weight.prepare}
  let i = flatId(group, groups) * WORKGROUP + local;
  if (i < u.octets) { halves[i] = weightHalves(i / ${cols / 8}u, i % ${cols / 8}u * 8u); }
}`,
  );
  runShader(backend, {
    name: 'DequantizeHalves',
    code,
    outputs: [halves],
    inputs: weight.tensors,
    uniforms: [{u32: octets}, ...format.values],
    workgroups: flatWorkgroups(backend, Math.ceil(octets / 256)),
  });
  return halves;
}
