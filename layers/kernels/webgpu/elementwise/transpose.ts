import * as tf from '@tensorflow/tfjs';
import {FLAT_ID, flatWorkgroups, runShader} from '../device/runShader.ts';
import {shaderText} from '../device/shaderText.ts';
import {holdsFloat32, type WebGPUBackend} from '../device/webgpuBackend.ts';

interface TransposeArgs {
  inputs: {x: tf.TensorInfo};
  attrs: {perm: number[]};
  backend: unknown;
}

const WORKGROUP = 256;

/**
 * `Transpose` of the two middle axes of four, `[B, T, H, D]` and `[B, H, T, D]`, four neighbours at a time: how heads are
 * split and merged. Float32, D a multiple of 4; all else is the stock kernel's.
 */
export function transpose(stock: tf.KernelFunc): tf.KernelConfig {
  return {
    kernelName: tf.Transpose,
    backendName: 'webgpu',
    kernelFunc: (args) => {
      const {inputs, attrs, backend: anyBackend} = args as unknown as TransposeArgs;
      const backend = anyBackend as WebGPUBackend;
      const {x} = inputs;
      const swapsMiddle = attrs.perm.join() === '0,2,1,3';
      const size = tf.util.sizeFromShape(x.shape);
      if (!swapsMiddle || !holdsFloat32(backend, x) || x.shape[3] % 4 !== 0 || size === 0) return stock(args);
      const [batch, rows, cols, dim] = x.shape;
      const y = backend.makeTensorInfo([batch, cols, rows, dim], 'float32');
      const code = shaderText(
        'SwapMiddle',
        () => `
@group(0) @binding(0) var<storage, read_write> y: array<vec4f>;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
struct Uniforms { count: u32, rows: u32, cols: u32, vectors: u32 }
@group(0) @binding(2) var<uniform> u: Uniforms;
${FLAT_ID}
@compute @workgroup_size(${WORKGROUP})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
  let i = flatId(group, groups) * ${WORKGROUP}u + local;
  if (i >= u.count) { return; }
  let vector = i % u.vectors;
  let row = i / u.vectors % u.rows;
  let col = i / u.vectors / u.rows % u.cols;
  let b = i / u.vectors / u.rows / u.cols;
  y[i] = x[((b * u.rows + row) * u.cols + col) * u.vectors + vector];
}`,
      );
      runShader(backend, {
        name: 'SwapMiddle',
        code,
        outputs: [y],
        inputs: [x],
        uniforms: [{u32: size / 4}, {u32: rows}, {u32: cols}, {u32: dim / 4}],
        workgroups: flatWorkgroups(backend, Math.ceil(size / 4 / WORKGROUP)),
      });
      return y;
    },
  };
}
