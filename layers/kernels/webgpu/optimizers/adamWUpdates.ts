import * as tf from '@tensorflow/tfjs';
import {adamWUpdatesOp} from '../../../ops/adamWUpdates.ts';
import {kernel} from '../../kernel.ts';
import {runShader} from '../device/runShader.ts';
import {numbered, shader, typed} from '../device/shader.ts';
import {times} from '../device/times.ts';
import {ownTensor} from '../elementwise/elementwise.ts';
import {BODY, FACTORS, factorsOf} from './adamWUpdate.ts';
import {UNLESS_FINITE_RETURN} from './gradientFactor.ts';

/** Number of tensors of one variable: value, gradient, mean, variance. */
const PER_VARIABLE = 4;

/** `AdamWUpdates` (layers/ops/adamWUpdates.ts): as many variables in a dispatch as the device binds. */
export const adamWUpdates = kernel(adamWUpdatesOp, 'webgpu', ({inputs, attrs, backend}) => {
  const tensors = Object.values(inputs);
  const factor = tensors.length % PER_VARIABLE === 1 ? tensors.pop() : undefined;
  const bound = backend.device.limits.maxStorageBuffersPerShaderStage - (factor ? 1 : 0);
  const atOnce = Math.floor(bound / PER_VARIABLE);
  const factors = factorsOf(attrs);
  const outputs: tf.TensorInfo[] = [];
  for (let first = 0; first < tensors.length; first += PER_VARIABLE * atOnce) {
    const count = Math.min(atOnce, (tensors.length - first) / PER_VARIABLE);
    const buffers: Record<string, tf.TensorInfo> = factor ? {factor} : {};
    const sizes: Record<string, number> = {};
    for (let k = 0; k < count; k++) {
      const [value, gradient, mean, variance] = tensors.slice(first + PER_VARIABLE * k);
      const own = [value, mean, variance].map((tensor) =>
        ownTensor(backend, tensor, attrs.overwrite ?? false),
      );
      [buffers[`value${k}`], buffers[`mean${k}`], buffers[`variance${k}`]] = own;
      buffers[`gradient${k}`] = gradient;
      sizes[`size${k}`] = tf.util.sizeFromShape(gradient.shape);
      outputs.push(...own);
    }
    const largest = Math.max(...Object.values(sizes));
    runShader(backend, {
      shader: updates(count, factor !== undefined),
      buffers,
      uniforms: {...sizes, ...factors},
      workgroups: [Math.min(MAX_GROUPS, Math.ceil(largest / THREADS)), count],
    });
  }
  return outputs;
});

const THREADS = 256;
/** The most workgroups that share a variable. */
const MAX_GROUPS = 1024;

const updates = shader((count: number, hasFactor: boolean) => ({
  name: 'AdamWUpdate',
  outputs: Object.assign(
    {},
    ...Array.from({length: count}, (_, k) => typed([`value${k}`, `mean${k}`, `variance${k}`], 'f32')),
  ),
  inputs: {...numbered('gradient', count, () => 'f32'), ...(hasFactor && {factor: 'f32'})},
  uniforms: {...numbered('size', count, () => 'u32'), ...typed(FACTORS, 'f32')},
  workgroup: THREADS,
  body: `
  ${hasFactor ? UNLESS_FINITE_RETURN : ''}
  let stride = groups.x * WORKGROUP;
  switch (thread.y) {
    ${times(
      count,
      (k) => `case ${k}u: {
      for (var i = thread.x; i < u.size${k}; i += stride) {
        let g = gradient${k}[i]${hasFactor ? ' * factor[0]' : ''};${BODY.replace(/(value|mean|variance)\[/g, `$1${k}[`)}
      }
    }`,
    )}
    default: {}
  }`,
}));
