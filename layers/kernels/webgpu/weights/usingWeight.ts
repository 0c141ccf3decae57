import type * as tf from '@tensorflow/tfjs';
import type {HalfDtype} from '../../../../quant/float16.ts';
import {FLAT_ID, flatWorkgroups, runShader} from '../device/runShader.ts';
import {shaderText} from '../device/shaderText.ts';
import {capabilitiesOf, type WebGPUBackend} from '../device/webgpuBackend.ts';
import {type QuantizedAttributes, type QuantizedInputs, quantizedFormat} from './quantizedFormat.ts';
import {CONVERTED_HALVES, formatUniforms, storedFormat, type WeightFormat} from './weightFormat.ts';

/** Attributes and tensors of a weight in any type; see layers/ops/storedMatrix.ts. */
export type AnyWeightAttributes = QuantizedAttributes | {dtype: HalfDtype; rows: number; cols: number};
export type AnyWeightInputs = QuantizedInputs & {weight: tf.TensorInfo};

/** From so many rows on, a weight that is dequantized once for all tiles costs less than doing it in each. */
const MANY_ROWS = 256;

/** Gives a weight of any type to products of `rowCount` rows. */
export function usingWeight<T>(
  backend: WebGPUBackend,
  inputs: AnyWeightInputs,
  attributes: AnyWeightAttributes,
  rowCount: number,
  use: (weight: WeightFormat) => T,
): T {
  if (attributes.dtype !== 'float16' && attributes.dtype !== 'bfloat16')
    return usingQuantized(backend, inputs, attributes as QuantizedAttributes, rowCount, use);
  return use(storedFormat(inputs.weight, attributes.dtype, attributes.cols));
}

/**
 * Gives a quantized weight to products of `rowCount` rows. It is dequantized inside the product, or, for many rows in float16,
 * just before it, into a matrix that goes again at once.
 */
export function usingQuantized<T>(
  backend: WebGPUBackend,
  inputs: QuantizedInputs,
  attributes: QuantizedAttributes,
  rowCount: number,
  use: (weight: WeightFormat) => T,
): T {
  const {rows, cols} = attributes;
  const weight = keptFormat(inputs, attributes);
  const {computeDtype} = capabilitiesOf(backend);
  if (computeDtype === 'float32' || rowCount < MANY_ROWS || cols % 8 !== 0) return use(weight);
  const halves = dequantizedHalves(backend, weight, rows, cols);
  const result = use(storedFormat(halves, 'float16', cols));
  backend.disposeData(halves.dataId);
  return result;
}

/** Formats by their attributes, with the names of their tensors. */
const formats = new Map<string, WeightFormat & {names: (keyof QuantizedInputs)[]}>();
const MAX_FORMATS = 4096;

/** {@link quantizedFormat}, its texts built once for a matrix's attributes. */
function keptFormat(inputs: QuantizedInputs, attributes: QuantizedAttributes): WeightFormat {
  const {dtype, rows, cols, blockSize, nestedBlockSize, offset, valueDtype, outliers, outlierDtype} =
    attributes;
  const key = `${dtype} ${rows} ${cols} ${blockSize} ${nestedBlockSize} ${valueDtype} ${outliers} ${outlierDtype}`;
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
