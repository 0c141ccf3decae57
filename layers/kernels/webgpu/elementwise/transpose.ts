import * as tf from '@tensorflow/tfjs';
import {op, type Tensors} from '../../../ops/op.ts';
import {stockKernel} from '../../kernel.ts';
import {runShader} from '../device/runShader.ts';
import {shader} from '../device/shader.ts';
import {holdsFloat32} from '../device/webgpuBackend.ts';

const transposeOp = op<Tensors<'x'>, tf.TransposeAttrs>(tf.Transpose);

/**
 * `Transpose` of the two middle axes of four, between `[B, T, H, D]` and `[B, H, T, D]`, four neighbours at a time,
 * which splits and merges heads. Float32, D a multiple of 4; the stock kernel runs everything else.
 */
export const transpose = stockKernel(transposeOp, 'webgpu', ({inputs: {x}, attrs, backend}, stock) => {
  const swapsMiddle = attrs.perm.join() === '0,2,1,3';
  const size = tf.util.sizeFromShape(x.shape);
  if (!swapsMiddle || !holdsFloat32(backend, x) || x.shape[3] % 4 !== 0 || size === 0) return stock();
  const [batch, rows, cols, dim] = x.shape;
  const y = backend.makeTensorInfo([batch, cols, rows, dim], 'float32');
  runShader(backend, {
    shader: swapMiddle(),
    buffers: {y, x},
    uniforms: {count: size / 4, rows, cols, vectors: dim / 4},
    threads: size / 4,
  });
  return y;
});

const swapMiddle = shader(() => ({
  name: 'SwapMiddle',
  outputs: {y: 'vec4f'},
  inputs: {x: 'vec4f'},
  uniforms: {count: 'u32', rows: 'u32', cols: 'u32', vectors: 'u32'},
  workgroup: 256,
  body: `
  let i = flatGroup * WORKGROUP + local;
  if (i >= u.count) { return; }
  let vector = i % u.vectors;
  let row = i / u.vectors % u.rows;
  let col = i / u.vectors / u.rows % u.cols;
  let b = i / u.vectors / u.rows / u.cols;
  y[i] = x[((b * u.rows + row) * u.cols + col) * u.vectors + vector];`,
}));
