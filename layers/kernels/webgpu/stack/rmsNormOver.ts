import {rmsNormOverOp} from '../../../ops/rmsNorm.ts';
import {kernel} from '../../kernel.ts';
import {HALVES, HALVES_HEADER} from '../device/halves.ts';
import {largestOverWorkgroup} from '../device/largestOverWorkgroup.ts';
import {runShader} from '../device/runShader.ts';
import {shader} from '../device/shader.ts';
import {sumOverWorkgroup} from '../device/sumOverWorkgroup.ts';
import {ownTensor} from '../elementwise/elementwise.ts';
import {sidesOf} from '../elementwise/rmsNorm.ts';
import {SHIFT} from '../products/packRows.ts';
import {addNormalizationGrad} from './normalizeRows.ts';

/**
 * `RMSNormOver` (layers/ops/rmsNorm.ts), a workgroup per row. It keeps the rows packed, in float16 with a scale for each:
 * a step with hidden states of 1 × 32768 holds 0.25 GiB less than with both rows and result in float32.
 */
export const rmsNormOver = kernel(rmsNormOverOp, 'webgpu', ({inputs: {x, weight}, attrs, backend}) => {
  const [rows, cols] = sidesOf(x);
  const y = ownTensor(backend, x, true);
  const halves = backend.makeTensorInfo([rows, cols / 2], 'int32');
  const scales = backend.makeTensorInfo([rows], 'float32');
  const uniforms = {rows, vectors: cols / 4, epsilon: attrs.epsilon};
  const buffers = {y, halves, scales, weight};
  if (rows > 0) runShader(backend, {shader: forward(), buffers, uniforms, workgroups: rows});
  return [y, halves, scales];
});

/** The gradient of the rows, which overwrites `dy` if that is spent. */
export const rmsNormOverGrad = kernel(rmsNormOverOp.gradient, 'webgpu', ({inputs, attrs, backend}) => {
  const {dy, weight, extra0: halves, extra1: scales} = inputs;
  const {epsilon, isSpent = false} = attrs;
  const dx = ownTensor(backend, dy, isSpent);
  const [rows, cols] = sidesOf(dy);
  if (rows > 0)
    addNormalizationGrad(backend, {halves, scales}, {weight, epsilon}, undefined, {
      ...dx,
      shape: [rows, cols],
    });
  return [dx];
});

const forward = shader(() => ({
  name: 'RMSNormOver',
  outputs: {y: 'vec4f', halves: 'vec2u', scales: 'f32'},
  inputs: {weight: 'vec4f'},
  uniforms: {rows: 'u32', vectors: 'u32', epsilon: 'f32'},
  workgroup: 256,
  header: HALVES_HEADER,
  globals: `
${HALVES}
${SHIFT}
${sumOverWorkgroup(256)}
${largestOverWorkgroup(256)}`,
  body: `
  let row = flatGroup;
  if (row >= u.rows) { return; }
  let at = row * u.vectors;
  let cols = f32(4u * u.vectors);
  var squares = 0.0;
  var largest = 0.0;
  for (var c = local; c < u.vectors; c += WORKGROUP) {
    let v = y[at + c];
    squares += dot(v, v);
    largest = max(largest, largestOf4(v));
  }
  let inverseRms = inverseSqrt(sumOverWorkgroup(squares, local) / cols + u.epsilon);
  let shift = shiftOf(largestOverWorkgroup(largest, local));
  let scale = powerOfTwo(shift);
  if (local == 0u) { scales[row] = powerOfTwo(-shift); }
  for (var c = local; c < u.vectors; c += WORKGROUP) {
    let v = y[at + c];
    halves[at + c] = halved(v * scale);
    y[at + c] = v * inverseRms * weight[c];
  }`,
}));
