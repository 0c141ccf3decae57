import type * as tf from '@tensorflow/tfjs';
import {HALVES, HALVES_HEADER} from '../device/halves.ts';
import {largestOverWorkgroup} from '../device/largestOverWorkgroup.ts';
import {quadAt, refuseOctets} from '../device/octets.ts';
import type {RowsView} from '../device/rowsView.ts';
import {runShader} from '../device/runShader.ts';
import {shader} from '../device/shader.ts';
import {sumOverWorkgroup} from '../device/sumOverWorkgroup.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';
import {
  buffersOf,
  formatOf,
  type PackedRows,
  type Rows,
  type RowsFormat,
  SHIFT,
  shapeOf,
  sharedRows,
  sharingRows,
} from '../products/packRows.ts';

interface Norm {
  /** `[cols]` float32. */
  weight: tf.TensorInfo;
  epsilon: number;
}

/**
 * `RMSNorm` (layers/ops/rmsNorm.ts) from rows to float16, a workgroup per row, or for a few rows in octets.
 *
 * @param y int32 `[rows, cols / 2]`, row by row or in octets, gets the result
 * @param kept gets the rows themselves, packed
 */
export function normalizeRows(
  backend: WebGPUBackend,
  x: Rows,
  {weight, epsilon}: Norm,
  y: RowsView,
  kept?: Required<PackedRows>,
): void {
  refuseOctets('NormalizeRows', buffersOf(x).x);
  const [rows, cols] = shapeOf(x);
  runShader(backend, {
    shader: normalization(formatOf(x), kept !== undefined, y.inOctets ? cols / 4 : 0),
    buffers: {y, keptHalves: kept?.halves, keptScales: kept?.scales, weight, ...buffersOf(x)},
    uniforms: {rows, vectors: cols / 4, epsilon},
    workgroups: Math.ceil(rows / sharedRows(y.inOctets)),
  });
}

/** @param quads of a row in octets; 0 if the result is stored row by row */
const normalization = shader((format: RowsFormat, isKept: boolean, quads: number) => {
  const shared = sharedRows(quads > 0);
  const {row, eachVector} = sharingRows(shared);
  return {
    name: 'NormalizeRows',
    outputs: {
      y: 'vec2u',
      keptHalves: isKept ? 'vec2u' : undefined,
      keptScales: isKept ? 'f32' : undefined,
    },
    inputs: {...rowsOf(format).buffers, weight: 'vec4f'},
    uniforms: {rows: 'u32', vectors: 'u32', epsilon: 'f32'},
    workgroup: 256,
    header: HALVES_HEADER,
    globals: `
${HALVES}
${SHIFT}
${sumOverWorkgroup(256, shared)}
${largestOverWorkgroup(256, shared)}`,
    body: `
  ${row}
  var squares = 0.0;
  var largest = 0.0;
  ${eachVector(`
    let v = ${rowsOf(format).vector};
    squares += dot(v, v);
    largest = max(largest, largestOf4(v));`)}
  let inverseRms = inverseSqrt(sumOverWorkgroup(squares, local) / f32(4u * u.vectors) + u.epsilon);
  ${
    isKept
      ? `let shift = shiftOf(largestOverWorkgroup(largest, local));
  let scale = powerOfTwo(shift);
  if (local < ${shared}u) { keptScales[row] = powerOfTwo(-shift); }`
      : ''
  }
  ${eachVector(`
    let v = ${rowsOf(format).vector};
    y[${quads > 0 ? quadAt('row', 'c', quads, true) : 'at + c'}] = halved(v * inverseRms * weight[c]);
    ${isKept ? 'keptHalves[at + c] = halved(v * scale);' : ''}`)}`,
  };
});

/**
 * Adds the gradient of {@link normalizeRows}' rows to `sum`; the weight is frozen.
 *
 * @param dy `[rows, cols]` float32; if it is undefined, `sum` is `dy` at first, and the gradient takes its place
 * @param sum `[rows, cols]` float32
 */
export function addNormalizationGrad(
  backend: WebGPUBackend,
  x: Rows,
  {weight, epsilon}: Norm,
  dy: RowsView | undefined,
  sum: RowsView,
): void {
  refuseOctets('NormalizeRows', buffersOf(x).x);
  const [rows, cols] = shapeOf(x);
  runShader(backend, {
    shader: gradient(formatOf(x), dy === undefined),
    buffers: {sum, weight, dy, ...buffersOf(x)},
    uniforms: {rows, vectors: cols / 4, epsilon},
    workgroups: rows,
  });
}

const gradient = shader((format: RowsFormat, isOver: boolean) => ({
  name: 'NormalizeRowsGrad',
  outputs: {sum: 'vec4f'},
  inputs: {...rowsOf(format).buffers, weight: 'vec4f', dy: isOver ? undefined : 'vec4f'},
  uniforms: {rows: 'u32', vectors: 'u32', epsilon: 'f32'},
  workgroup: 256,
  header: HALVES_HEADER,
  globals: `
${format.isPacked ? HALVES : ''}
${sumOverWorkgroup(256)}`,
  body: `
  let row = flatGroup;
  if (row >= u.rows) { return; }
  let at = row * u.vectors;
  var squares = 0.0;
  var product = 0.0;
  for (var c = local; c < u.vectors; c += WORKGROUP) {
    let v = ${rowsOf(format).vector};
    squares += dot(v, v);
    product += dot(v, ${isOver ? 'sum' : 'dy'}[at + c] * weight[c]);
  }
  let cols = f32(4u * u.vectors);
  let inverseRms = inverseSqrt(sumOverWorkgroup(squares, local) / cols + u.epsilon);
  let along = sumOverWorkgroup(product, local) * inverseRms * inverseRms / cols;
  for (var c = local; c < u.vectors; c += WORKGROUP) {
    sum[at + c] ${isOver ? '=' : '+='} inverseRms * (${isOver ? 'sum' : 'dy'}[at + c] * weight[c] - ${rowsOf(format).vector} * along);
  }`,
}));

/** How a shader reads vector `c` of its row, which begins at index `at`. */
const rowsOf = ({isPacked, hasScales}: RowsFormat) => ({
  buffers: {
    x: isPacked ? ('vec2u' as const) : ('vec4f' as const),
    scales: hasScales ? ('f32' as const) : undefined,
  },
  vector: `${hasScales ? 'scales[row] * ' : ''}${isPacked ? 'widened(x[at + c])' : 'x[at + c]'}`,
});
