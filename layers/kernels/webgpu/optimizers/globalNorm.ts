import * as tf from '@tensorflow/tfjs';
import {globalNormOp} from '../../../ops/globalNorm.ts';
import {kernel} from '../../kernel.ts';
import {runShader} from '../device/runShader.ts';
import {numbered, shader} from '../device/shader.ts';
import {sumOverWorkgroup} from '../device/sumOverWorkgroup.ts';
import {times} from '../device/times.ts';

/** The most tensors in a dispatch; a device may bind fewer. */
const MAX_AT_ONCE = 15;

/** Number of workgroups that share a tensor. */
const SHARES = 32;

/**
 * `GlobalNorm` (layers/ops/globalNorm.ts): as many tensors per dispatch as the device binds, then a sum of their sums.
 */
export const globalNorm = kernel(globalNormOp, 'webgpu', ({inputs, backend}) => {
  const tensors = Object.values(inputs);
  const atOnce = Math.min(MAX_AT_ONCE, backend.device.limits.maxStorageBuffersPerShaderStage - 1);
  const sums = backend.makeTensorInfo([tensors.length, SHARES], 'float32');
  for (let first = 0; first < tensors.length; first += atOnce) {
    const given = tensors.slice(first, first + atOnce);
    runShader(backend, {
      shader: sumSquares(given.length),
      buffers: {sums, ...numbered('x', given.length, (i) => given[i])},
      uniforms: {first, ...numbered('size', given.length, (i) => tf.util.sizeFromShape(given[i].shape))},
      workgroups: [SHARES, given.length],
    });
  }
  const norm = backend.makeTensorInfo([], 'float32');
  runShader(backend, {
    shader: rootOfSum(),
    buffers: {norm, sums},
    uniforms: {count: tensors.length * SHARES},
  });
  backend.disposeData(sums.dataId);
  return norm;
});

const sumSquares = shader((count: number) => ({
  name: 'SumSquares',
  outputs: {sums: 'f32'},
  inputs: numbered('x', count, () => 'f32'),
  uniforms: {first: 'u32', ...numbered('size', count, () => 'u32')},
  workgroup: 256,
  globals: sumOverWorkgroup(256),
  body: `
  var sum = 0.0;
  let begin = group.x * WORKGROUP + local;
  switch group.y {
    ${times(count, (i) => `case ${i}u: { for (var j = begin; j < u.size${i}; j += ${256 * SHARES}u) { sum += x${i}[j] * x${i}[j]; } }`)}
    default: {}
  }
  let total = sumOverWorkgroup(sum, local);
  if (local == 0u) { sums[(u.first + group.y) * ${SHARES}u + group.x] = total; }`,
}));

const rootOfSum = shader(() => ({
  name: 'RootOfSum',
  outputs: {norm: 'f32'},
  inputs: {sums: 'f32'},
  uniforms: {count: 'u32'},
  workgroup: 256,
  globals: sumOverWorkgroup(256),
  body: `
  var sum = 0.0;
  for (var j = local; j < u.count; j += WORKGROUP) { sum += sums[j]; }
  let total = sumOverWorkgroup(sum, local);
  if (local == 0u) { norm[0] = sqrt(total); }`,
}));
