import * as tf from '@tensorflow/tfjs';
import {rmsNormOp} from '../../../ops/rmsNorm.ts';
import {kernel} from '../../kernel.ts';
import type {RowsView} from '../device/rowsView.ts';
import {runShader} from '../device/runShader.ts';
import {shader, typed} from '../device/shader.ts';
import {sumOverWorkgroup} from '../device/sumOverWorkgroup.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';
import {ownTensor} from './elementwise.ts';

/** `RMSNorm` (layers/ops/rmsNorm.ts), a workgroup per row. */
export const rmsNorm = kernel(rmsNormOp, 'webgpu', ({inputs, attrs, backend}) => {
  return normalized(backend, inputs.x, inputs.weight, attrs.epsilon);
});

/** Computes {@link rmsNorm}. */
export function normalized(
  backend: WebGPUBackend,
  x: tf.TensorInfo,
  weight: RowsView,
  epsilon: number,
): tf.TensorInfo {
  const [rows, cols] = sidesOf(x);
  const y = backend.makeTensorInfo(x.shape, 'float32');
  const uniforms = {rows, cols, epsilon};
  if (rows > 0) runShader(backend, {shader: forward(), buffers: {y, x, weight}, uniforms, workgroups: rows});
  return y;
}

/** The gradient of `x`, which overwrites `dy` if that is spent; the weight is frozen wherever this runs. */
export const rmsNormGrad = kernel(rmsNormOp.gradient, 'webgpu', ({inputs, attrs, backend}) => {
  const {x, weight, dy} = inputs;
  const {epsilon, isSpent = false} = attrs;
  const [rows, cols] = sidesOf(x);
  const dx = ownTensor(backend, dy, isSpent);
  const uniforms = {rows, cols, epsilon};
  const buffers = {y: dx, x, weight};
  if (rows > 0) runShader(backend, {shader: backward(), buffers, uniforms, workgroups: rows});
  return [dx];
});

const forward = rowShader(
  'RMSNorm',
  ['x', 'weight'],
  `
  for (var c = local; c < u.cols; c += WORKGROUP) { squares += x[at + c] * x[at + c]; }
  let inverseRms = inverseSqrt(sumOverWorkgroup(squares, local) / f32(u.cols) + u.epsilon);
  for (var c = local; c < u.cols; c += WORKGROUP) { y[at + c] = x[at + c] * inverseRms * weight[c]; }`,
);

const backward = rowShader(
  'RMSNormGrad',
  ['x', 'weight'], // y is dy at first
  `
  var product = 0.0;
  for (var c = local; c < u.cols; c += WORKGROUP) {
    squares += x[at + c] * x[at + c];
    product += x[at + c] * y[at + c] * weight[c];
  }
  let inverseRms = inverseSqrt(sumOverWorkgroup(squares, local) / f32(u.cols) + u.epsilon);
  let along = sumOverWorkgroup(product, local) * inverseRms * inverseRms / f32(u.cols);
  for (var c = local; c < u.cols; c += WORKGROUP) {
    y[at + c] = inverseRms * (y[at + c] * weight[c] - x[at + c] * along);
  }`,
);

/** Declares a shader whose `body` computes the row of `y` that begins at index `at`. */
function rowShader<I extends string>(name: string, inputs: I[], body: string) {
  return shader(() => ({
    name,
    outputs: {y: 'f32'},
    inputs: typed(inputs, 'f32'),
    uniforms: {rows: 'u32', cols: 'u32', epsilon: 'f32'},
    workgroup: 256,
    globals: sumOverWorkgroup(256),
    body: `
  if (flatGroup >= u.rows) { return; }
  let at = flatGroup * u.cols;
  var squares = 0.0;
  ${body}`,
  }));
}

/** Returns the number of rows, and their size. */
export function sidesOf({shape}: tf.TensorInfo): [rows: number, cols: number] {
  const cols = shape.at(-1) as number;
  return [tf.util.sizeFromShape(shape) / cols, cols];
}
