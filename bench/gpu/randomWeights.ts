import * as tf from '@tensorflow/tfjs';
import {runOps} from '../../layers/kernels/tensorflow/device/runOps.ts';
import {DataType, type TensorFlowBackend} from '../../layers/kernels/tensorflow/device/tensorflowBackend.ts';
import {runShader} from '../../layers/kernels/webgpu/device/runShader.ts';
import {shader} from '../../layers/kernels/webgpu/device/shader.ts';
import type {WebGPUBackend} from '../../layers/kernels/webgpu/device/webgpuBackend.ts';
import {namedParameters} from '../../layers/moduleLayer.ts';
import {QuantizedParameter} from '../../layers/quantizedParameter.ts';
import {packFloat32Rows} from '../../quant/float16.ts';
import type {QuantizedTensor} from '../../quant/quantizedTensor.ts';
import {getQuantizer} from '../../quant/quantizerRegistry.ts';

/** Bound of uniform weights with a standard deviation of 0.02. */
const LARGEST = 0.0346;

/** Matrices that are quantized on the host, by shape. Each is quantized once for all layers. */
const quantized = new Map<string, QuantizedTensor>();

function quantizedMatrix({logicalShape: [rows, cols], quantization}: QuantizedParameter): QuantizedTensor {
  const {type, computeDtype, ...options} = quantization;
  const key = JSON.stringify([rows, cols, quantization]);
  const known = quantized.get(key);
  if (known) return known;
  const pool = Float32Array.from({length: 1 << 18}, () => LARGEST * (2 * Math.random() - 1));
  const values = new Float32Array(rows * cols);
  for (let at = 0; at < values.length; at += pool.length)
    values.set(pool.subarray(0, values.length - at), at);
  const made = getQuantizer(type).quantize(values, [rows, cols], {...options, dtype: 'float32'});
  quantized.set(key, made);
  return made;
}

/**
 * Fills a model that was made without allocated weights: matrices are uniform in ±0.035 (standard deviation 0.02), with
 * 16 bits on the device, and norms are one.
 */
export function fillWithRandomWeights(layers: tf.layers.Layer[]): void {
  let seed = 1;
  for (const [, parameter] of namedParameters(layers)) {
    const {logicalShape: shape, storage} = parameter;
    if (parameter instanceof QuantizedParameter) {
      parameter.writeMatrix(quantizedMatrix(parameter));
      continue;
    }
    if (shape.length === 1) {
      const ones = tf.ones(shape);
      parameter.write(ones);
      ones.dispose();
      continue;
    }
    const [rows, cols] = shape;
    const isTensorFlow = tf.getBackend() === 'tensorflow';
    if (!(storage === 'float16' || (storage === 'bfloat16' && isTensorFlow)) || cols % 2 !== 0) {
      throw new Error(
        `${parameter.name}: expected a float16 matrix of even width, got ${storage} [${shape}]`,
      );
    }
    const value = isTensorFlow
      ? randomOnTensorFlow(storage, rows, cols / 2, seed++)
      : randomFloat16(rows, cols / 2, seed++);
    parameter.write(value);
    value.dispose();
  }
}

/** Makes `[rows, words]` int32 on the device, with two random float16 values in each word. */
export function randomFloat16(rows: number, words: number, seed: number): tf.Tensor {
  const backend = tf.backend() as unknown as WebGPUBackend;
  const info = backend.makeTensorInfo([rows, words], 'int32');
  const count = rows * words;
  if (4 * count > backend.device.limits.maxStorageBufferBindingSize) {
    const pool = Float32Array.from({length: 1 << 16}, () => LARGEST * (2 * Math.random() - 1));
    const values = packFloat32Rows(pool, 1, pool.length, 'float16');
    const all = new Int32Array(count);
    for (let at = 0; at < count; at += values.length) all.set(values.subarray(0, count - at), at);
    backend.disposeData(info.dataId);
    return tf.tensor2d(all, [rows, words], 'int32');
  }
  runShader(backend, {shader: random(), buffers: {y: info}, uniforms: {count, seed}, threads: count});
  return tf.engine().makeTensorFromTensorInfo(info);
}

const random = shader(() => ({
  name: 'RandomFloat16',
  outputs: {y: 'u32'},
  inputs: {},
  uniforms: {count: 'u32', seed: 'u32'},
  workgroup: 256,
  globals: `
fn hash(x: u32) -> u32 { // a permuted congruential generator's output function
  let state = x * 747796405u + 2891336453u;
  let word = ((state >> ((state >> 28u) + 4u)) ^ state) * 277803737u;
  return (word >> 22u) ^ word;
}`,
  body: `
  let i = flatGroup * WORKGROUP + local;
  if (i >= u.count) { return; }
  let a = hash(i ^ hash(u.seed));
  let b = hash(a);
  y[i] = pack2x16float((vec2f(f32(a), f32(b)) / 2147483648.0 - 1.0) * ${LARGEST});`,
}));

/** Makes the values of {@link randomFloat16} with TensorFlow's own op. */
export function randomOnTensorFlow(
  dtype: 'float16' | 'bfloat16',
  rows: number,
  words: number,
  seed: number,
): tf.Tensor {
  const [info] = runOps(tf.backend() as TensorFlowBackend, {}, (ops) => {
    // The stateful op would continue its numbers when it is asked for the same seed again.
    const attributes = [ops.typeAttribute('dtype', DataType.float32)];
    const inputs = [ops.integers([rows, words, 2]), ops.integers([seed, 0])];
    const uniform = ops.one('StatelessRandomUniform', inputs, attributes);
    const spread = ops.sub(ops.mul(uniform, ops.scalar(2 * LARGEST)), ops.scalar(LARGEST));
    return [ops.bitcast(ops.cast(spread, DataType[dtype]), DataType.int32)];
  });
  return tf.engine().makeTensorFromTensorInfo(info);
}
