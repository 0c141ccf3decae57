import type * as tf from '@tensorflow/tfjs';
import type {HalfFormat, StoredFormat, StoredTensors} from '../../../ops/storedMatrix.ts';
import {makeScratch} from '../device/makeScratch.ts';
import {runShader} from '../device/runShader.ts';
import {shader} from '../device/shader.ts';
import {times} from '../device/times.ts';
import {capabilitiesOf, type WebGPUBackend} from '../device/webgpuBackend.ts';
import {quantizedFormat} from './quantizedFormat.ts';
import {rowPartsOf} from './rowParts.ts';
import {halvesOf, type Multiplier, storedFormat, type WeightFormat} from './weightFormat.ts';

/**
 * From this many rows of products on, a weight is written as a float16 matrix just before them. That costs less than
 * dequantizing it in each tile; for 16 bits, only long rows gain from it.
 */
const MANY_ROWS = {quantized: 256, half: 4096};

/** Whether a weight is written for so many rows; for rows in octets it always is. */
export const areMany = (rowCount: number, isQuantized: boolean): boolean =>
  rowCount >= (isQuantized ? MANY_ROWS.quantized : MANY_ROWS.half);

/** What a weight is used for. */
export interface Use {
  /** Rows of the products. */
  rowCount: number;
  /** See {@link Multiplier}. */
  transposeWeight: boolean;
  /** Whether the rows are in octets, which only a weight that is not transposed multiplies. Default false. */
  inOctets?: boolean;
}

/** A weight as products read it. */
export interface ReadableWeight {
  multiplier: Multiplier;
  /** The matrix that was written for it, if any, to be disposed. */
  written?: tf.TensorInfo;
}

/** Calls `use` with a weight as {@link readableWeight} returns it, and frees what was written. */
export function usingWeight<T>(
  backend: WebGPUBackend,
  inputs: StoredTensors,
  attributes: StoredFormat,
  purpose: Use,
  use: (multiplier: Multiplier) => T,
): T {
  const {multiplier, written} = readableWeight(backend, inputs, attributes, purpose);
  const result = use(multiplier);
  if (written) backend.disposeData(written.dataId);
  return result;
}

/**
 * Returns a weight of any type as it is stored or, for many rows in float16, as a matrix that is written here, unless
 * it is too large for a buffer. For `x · Wᵀ` by subgroup matrices that matrix is Wᵀ, because a product
 * reads long rows of its second operand faster than short ones: 296 instead of 277 TFLOP/s on an H200.
 */
export function readableWeight(
  backend: WebGPUBackend,
  inputs: StoredTensors,
  attributes: StoredFormat,
  {rowCount, transposeWeight, inOctets = false}: Use,
): ReadableWeight {
  const {rows, cols} = attributes;
  const weight = formatOf(backend, inputs, attributes);
  const {computeDtype, hasMatrices} = capabilitiesOf(backend);
  const isTurned = transposeWeight && hasMatrices && rows % 8 === 0;
  const isQuantized = !isHalf(attributes);
  const isWorthIt = (inOctets || areMany(rowCount, isQuantized)) && (isQuantized || isTurned);
  const isBindable = 2 * rows * cols <= backend.device.limits.maxStorageBufferBindingSize;
  if (computeDtype === 'float32' || !isWorthIt || !isBindable || cols % 8 !== 0)
    return {multiplier: {weight, rows, cols, transposeWeight}};
  const [tall, wide] = isTurned ? [cols, rows] : [rows, cols];
  const halves = makeScratch(backend, [tall, wide / 2], 'int32');
  const buffers = {halves, ...weight.tensors};
  const octets = (rows * cols) / 8;
  if (isTurned)
    runShader(backend, {
      shader: turnedMatrix(weight, rows, cols),
      buffers,
      uniforms: weight.values,
      workgroups: [Math.ceil(rows / TURNED.rows), Math.ceil(cols / TURNED.cols)],
    });
  else
    runShader(backend, {
      shader: wholeMatrix(weight, cols),
      buffers,
      uniforms: {octets, ...weight.values},
      threads: Math.ceil(octets / OCTETS),
    });
  const multiplier = {
    weight: storedFormat({parts: [halves], rows: tall}, 'float16', wide),
    rows: tall,
    cols: wide,
    transposeWeight: transposeWeight && !isTurned,
  };
  return {multiplier, written: halves};
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

/** Number of octets that a thread writes, so that workgroups make their tables less often. */
const OCTETS = 4;

/** The whole weight as float16, int32 `[rows, cols / 2]`; `cols` is a multiple of 8. */
const wholeMatrix = shader((weight: WeightFormat, cols: number) => ({
  ...writing(weight),
  uniforms: {octets: 'u32', ...weight.uniforms},
  body: `
  ${weight.prepare}
  ${times(
    OCTETS,
    (i) => `{
    let i = flatGroup * ${OCTETS}u * WORKGROUP + ${i}u * WORKGROUP + local;
    if (i < u.octets) { halves[i] = weightHalves(i / ${cols / 8}u, i % ${cols / 8}u * 8u); }
  }`,
  )}`,
}));

/** The part of a weight that a workgroup turns. */
const TURNED = {rows: 256, cols: 64};

/**
 * The transposed weight as float16, int32 `[cols, rows / 2]`; both sides are multiples of 8, and so a thread's square.
 * Eight threads beside each other have squares below each other, so that they write whole lines of 128 bytes.
 */
const turnedMatrix = shader((weight: WeightFormat, rows: number, cols: number) => ({
  ...writing(weight),
  uniforms: weight.uniforms,
  body: `
  ${weight.prepare}
  let row = group.x * ${TURNED.rows}u + local / ${TURNED.cols}u * 64u + local % 8u * 8u;
  let col = group.y * ${TURNED.cols}u + local / 8u * 8u % ${TURNED.cols}u;
  if (row >= ${rows}u || col >= ${cols}u) { return; }
  ${times(8, (r) => `let row${r} = weightHalves(row + ${r}u, col);`)}
  ${times(
    8,
    (c) =>
      `halves[(col + ${c}u) * ${rows / 8}u + row / 8u] = vec4u(${[0, 2, 4, 6].map((r) => pairOf(r, c)).join(', ')});`,
  )}`,
}));

/** WGSL of the word of two neighbours in a column: elements `c` of the octets `row<r>` and `row<r + 1>`. */
const pairOf = (r: number, c: number): string => {
  const [above, below] = [r, r + 1].map((i) => `row${i}[${c >> 1}]`);
  return c % 2 === 0
    ? `(${above} & 0xffffu) | (${below} << 16u)`
    : `(${above} >> 16u) | (${below} & 0xffff0000u)`;
};

const writing = (weight: WeightFormat) =>
  ({
    name: 'DequantizeHalves',
    outputs: {halves: 'vec4u'},
    inputs: weight.buffers,
    workgroup: 256,
    header: 'enable f16;',
    globals: `
${weight.octet()}
${halvesOf(weight)}`,
  }) as const;
