import type {DeviceFormat} from '../../../ops/quantizedMatrix.ts';
import type {HalfFormat, StoredFormat, StoredTensors} from '../../../ops/storedMatrix.ts';
import {makeScratch} from '../device/makeScratch.ts';
import {runShader} from '../device/runShader.ts';
import {shader} from '../device/shader.ts';
import {times} from '../device/times.ts';
import {capabilitiesOf, type WebGPUBackend} from '../device/webgpuBackend.ts';
import {quantizedFormat} from './quantizedFormat.ts';
import {rowPartsOf} from './rowParts.ts';
import {halvesOf, type Multiplier, storedFormat, type WeightFormat} from './weightFormat.ts';

/** From this many rows on, dequantizing a weight once for all tiles costs less than doing it in each. */
const MANY_ROWS = 256;

/**
 * Calls `use` with a weight of any type, for products of `rowCount` rows.
 *
 * @param transposeWeight see {@link Multiplier}
 */
export function usingWeight<T>(
  backend: WebGPUBackend,
  inputs: StoredTensors,
  attributes: StoredFormat,
  {rowCount, transposeWeight}: Use,
  use: (multiplier: Multiplier) => T,
): T {
  if (!isHalf(attributes))
    return usingQuantized(backend, inputs, attributes, {rowCount, transposeWeight}, use);
  const {rows, cols} = attributes;
  return use({weight: formatOf(backend, inputs, attributes), rows, cols, transposeWeight});
}

/** What a weight is used for. */
interface Use {
  rowCount: number;
  transposeWeight: boolean;
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
 * Calls `use` with a quantized weight, for products of `rowCount` rows. The weight is dequantized inside the product or,
 * for many rows in float16, just before it, into a matrix that is freed right after. For `x · Wᵀ` that matrix is Wᵀ,
 * because a product reads long rows of its second operand faster than short ones: 296 instead of 277 TFLOP/s on an H200.
 */
export function usingQuantized<T>(
  backend: WebGPUBackend,
  inputs: StoredTensors,
  attributes: DeviceFormat,
  {rowCount, transposeWeight}: Use,
  use: (multiplier: Multiplier) => T,
): T {
  const {rows, cols} = attributes;
  const weight = quantizedFormat(inputs, attributes);
  const {computeDtype} = capabilitiesOf(backend);
  if (computeDtype === 'float32' || rowCount < MANY_ROWS || cols % 8 !== 0)
    return use({weight, rows, cols, transposeWeight});
  const isTurned = transposeWeight && rows % 8 === 0;
  const [tall, wide] = isTurned ? [cols, rows] : [rows, cols];
  const halves = makeScratch(backend, [tall, wide / 2], 'int32');
  runShader(backend, {
    shader: isTurned ? turnedMatrix(weight, rows, cols) : wholeMatrix(weight, cols),
    buffers: {halves, ...weight.tensors},
    uniforms: {octets: (rows * cols) / 8, ...weight.values},
    ...(isTurned
      ? {workgroups: [Math.ceil(rows / TURNED.rows), Math.ceil(cols / TURNED.cols)]}
      : {threads: (rows * cols) / 8}),
  });
  const dequantized = storedFormat({parts: [halves], rows: tall}, 'float16', wide);
  const result = use({
    weight: dequantized,
    rows: tall,
    cols: wide,
    transposeWeight: transposeWeight && !isTurned,
  });
  backend.disposeData(halves.dataId);
  return result;
}

/** The whole weight as float16, int32 `[rows, cols / 2]`; `cols` is a multiple of 8. */
const wholeMatrix = shader((weight: WeightFormat, cols: number) => ({
  ...dequantizing(weight),
  body: `
  ${weight.prepare}
  let i = flatGroup * WORKGROUP + local;
  if (i < u.octets) { halves[i] = weightHalves(i / ${cols / 8}u, i % ${cols / 8}u * 8u); }`,
}));

/** The part of a weight that a workgroup turns. */
const TURNED = {rows: 256, cols: 64};

/** The transposed weight as float16, int32 `[cols, rows / 2]`; both sides are multiples of 8, and so a thread's square. */
const turnedMatrix = shader((weight: WeightFormat, rows: number, cols: number) => ({
  ...dequantizing(weight),
  body: `
  ${weight.prepare}
  let row = group.x * ${TURNED.rows}u + local / ${TURNED.cols / 8}u * 8u;
  let col = group.y * ${TURNED.cols}u + local % ${TURNED.cols / 8}u * 8u;
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

const dequantizing = (weight: WeightFormat) =>
  ({
    name: 'DequantizeHalves',
    outputs: {halves: 'vec4u'},
    inputs: weight.buffers,
    uniforms: {octets: 'u32', ...weight.uniforms},
    workgroup: 256,
    header: 'enable f16;',
    globals: `
${weight.octet()}
${halvesOf(weight)}`,
  }) as const;
