import * as tf from '@tensorflow/tfjs';
import {scaleRowsOp} from '../../../ops/scaleRows.ts';
import {kernel} from '../../kernel.ts';
import {runShader} from '../device/runShader.ts';
import {shader} from '../device/shader.ts';
import {ownTensor} from './elementwise.ts';

/** `ScaleRows` (layers/ops/scaleRows.ts), over `x` if that is spent. */
export const scaleRows = kernel(
  scaleRowsOp,
  'webgpu',
  ({inputs: {x, factors}, attrs: {isSpent}, backend}) => {
    const y = ownTensor(backend, x, isSpent);
    const count = tf.util.sizeFromShape(x.shape);
    const perFactor = factors.shape.length === 0 ? count : x.shape[1];
    if (count > 0)
      runShader(backend, {
        shader: scaling(),
        buffers: {y, factors},
        uniforms: {count, perFactor},
        threads: count,
      });
    return y;
  },
);

const scaling = shader(() => ({
  name: 'ScaleRows',
  outputs: {y: 'f32'},
  inputs: {factors: 'f32'},
  uniforms: {count: 'u32', perFactor: 'u32'},
  workgroup: 256,
  body: `
  let i = flatGroup * WORKGROUP + local;
  if (i < u.count) { y[i] *= factors[i / u.perFactor]; }`,
}));
