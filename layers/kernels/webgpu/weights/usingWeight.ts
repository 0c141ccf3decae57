import type * as tf from '@tensorflow/tfjs';
import type {DeviceFormat} from '../../../ops/quantizedMatrix.ts';
import type {HalfFormat, StoredFormat, StoredTensors} from '../../../ops/storedMatrix.ts';
import {makeScratch} from '../device/makeScratch.ts';
import {runShader} from '../device/runShader.ts';
import {shader} from '../device/shader.ts';
import {capabilitiesOf, type WebGPUBackend} from '../device/webgpuBackend.ts';
import {quantizedFormat} from './quantizedFormat.ts';
import {rowPartsOf} from './rowParts.ts';
import {halvesOf, storedFormat, type WeightFormat} from './weightFormat.ts';

/** From this many rows on, dequantizing a weight once for all tiles costs less than doing it in each. */
const MANY_ROWS = 256;

/** Calls `use` with the format of a weight of any type, for products of `rowCount` rows. */
export function usingWeight<T>(
  backend: WebGPUBackend,
  inputs: StoredTensors,
  attributes: StoredFormat,
  rowCount: number,
  use: (weight: WeightFormat) => T,
): T {
  return isHalf(attributes)
    ? use(formatOf(backend, inputs, attributes))
    : usingQuantized(backend, inputs, attributes, rowCount, use);
}

const isHalf = (attributes: StoredFormat): attributes is HalfFormat =>
  attributes.dtype === 'float16' || attributes.dtype === 'bfloat16';

/** Returns the format of a weight of any type as it is stored. */
export const formatOf = (
  backend: WebGPUBackend,
  inputs: StoredTensors,
  attributes: StoredFormat,
): WeightFormat =>
  isHalf(attributes)
    ? storedFormat(rowPartsOf(backend, inputs.weight), attributes.dtype, attributes.cols)
    : quantizedFormat(inputs, attributes);

/**
 * Calls `use` with the format of a quantized weight, for products of `rowCount` rows. The weight is dequantized inside
 * the product or, for many rows in float16, just before it, into a matrix that is freed right after.
 */
export function usingQuantized<T>(
  backend: WebGPUBackend,
  inputs: StoredTensors,
  attributes: DeviceFormat,
  rowCount: number,
  use: (weight: WeightFormat) => T,
): T {
  const {rows, cols} = attributes;
  const weight = quantizedFormat(inputs, attributes);
  const {computeDtype} = capabilitiesOf(backend);
  if (computeDtype === 'float32' || rowCount < MANY_ROWS || cols % 8 !== 0) return use(weight);
  const halves = dequantizedHalves(backend, weight, rows, cols);
  const result = use(storedFormat({parts: [halves], rows}, 'float16', cols));
  backend.disposeData(halves.dataId);
  return result;
}

/** Returns the whole weight as float16, int32 `[rows, cols / 2]`; `cols` must be a multiple of 8. */
function dequantizedHalves(
  backend: WebGPUBackend,
  weight: WeightFormat,
  rows: number,
  cols: number,
): tf.TensorInfo {
  const halves = makeScratch(backend, [rows, cols / 2], 'int32');
  const octets = (rows * cols) / 8;
  runShader(backend, {
    shader: wholeMatrix(weight, cols),
    buffers: {halves, ...weight.tensors},
    uniforms: {octets, ...weight.values},
    threads: octets,
  });
  return halves;
}

const wholeMatrix = shader((weight: WeightFormat, cols: number) => ({
  name: 'DequantizeHalves',
  outputs: {halves: 'vec4u'},
  inputs: weight.buffers,
  uniforms: {octets: 'u32', ...weight.uniforms},
  workgroup: 256,
  header: 'enable f16;',
  globals: `
${weight.octet()}
${halvesOf(weight)}`,
  body: `
  ${weight.prepare}
  let i = flatGroup * WORKGROUP + local;
  if (i < u.octets) { halves[i] = weightHalves(i / ${cols / 8}u, i % ${cols / 8}u * 8u); }`,
}));
