import * as tf from '@tensorflow/tfjs';
import {runShader} from '../device/runShader.ts';
import {type Shader, shader, typed} from '../device/shader.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';

/** A computation for each element. Buffers are float32 and of one size. */
interface ElementwiseDeclaration<O extends string, I extends string, U extends string> {
  name: string;
  outputs: O[];
  inputs: I[];
  /** Names of inputs with one element. */
  scalars?: I[];
  /** Names of float32 constants. */
  uniforms?: U[];
  /**
   * WGSL statements that compute element `i` of the outputs, `f32` or `vec4f`, from element `i` of the inputs and the
   * outputs.
   */
  body: string;
}

/** A declaration with its shaders: for one element and for four in a vector. */
export interface Elementwise<O extends string, I extends string, U extends string>
  extends ElementwiseDeclaration<O, I, U> {
  shaderOf: (type: 'f32' | 'vec4f') => Shader;
}

/** Declares a shader with one thread for each element, or for every four if the size allows. */
export function elementwise<O extends string, I extends string, U extends string = never>(
  declaration: ElementwiseDeclaration<O, I, U>,
): Elementwise<O, I, U> {
  const {name, outputs, inputs, scalars = [], uniforms = [], body} = declaration;
  const shaderOf = shader((type: 'f32' | 'vec4f') => ({
    name,
    outputs: typed(outputs, type),
    inputs: {...typed(inputs, type), ...typed(scalars, 'f32')},
    uniforms: {count: 'u32', ...typed(uniforms, 'f32')},
    workgroup: 256,
    body: `
  let i = flatGroup * WORKGROUP + local;
  if (i >= u.count) { return; }
  ${body}`,
  }));
  return {...declaration, shaderOf};
}

/** Runs a shader without constants and returns its outputs, in the shape of the first input. */
export function runElementwise<O extends string, I extends string>(
  backend: WebGPUBackend,
  of: Elementwise<O, I, never>,
  inputs: Record<I, tf.TensorInfo>,
): tf.TensorInfo[] {
  const {shape} = inputs[of.inputs[0]];
  const outputs = of.outputs.map(() => backend.makeTensorInfo(shape, 'float32'));
  run(backend, of, outputs, inputs, {});
  return outputs;
}

/**
 * Runs a shader whose outputs are tensors that get new values.
 *
 * @param overwrite whether to write over the given tensors, except those with other owners; otherwise over copies
 * @returns the new tensors, to be disposed in addition to the given ones
 */
export function runUpdate<O extends string, I extends string, U extends string>(
  backend: WebGPUBackend,
  of: Elementwise<O, I, U>,
  changed: Record<O, tf.TensorInfo>,
  inputs: Record<I, tf.TensorInfo>,
  overwrite: boolean,
  uniforms: Record<U, number>,
): tf.TensorInfo[] {
  const outputs = of.outputs.map((name) => ownTensor(backend, changed[name], overwrite));
  run(backend, of, outputs, inputs, uniforms);
  return outputs;
}

const copy = elementwise({name: 'Copy', outputs: ['y'], inputs: ['x'], body: 'y[i] = x[i];'});

/** Returns a tensor to overwrite: the given one, or a copy if it must stay or has other owners. */
export function ownTensor(backend: WebGPUBackend, given: tf.TensorInfo, overwrite: boolean): tf.TensorInfo {
  const {dataId, shape, dtype} = given;
  if (!overwrite || backend.refCount(dataId) > 1) return runElementwise(backend, copy, {x: given})[0];
  backend.incRef(dataId);
  return {dataId, shape, dtype};
}

function run<O extends string, I extends string, U extends string>(
  backend: WebGPUBackend,
  of: Elementwise<O, I, U>,
  outputs: tf.TensorInfo[],
  inputs: Record<I, tf.TensorInfo>,
  values: Record<U, number>,
): void {
  const size = tf.util.sizeFromShape(outputs[0].shape);
  if (size === 0) return;
  const isWide = size % 4 === 0;
  const count = isWide ? size / 4 : size;
  const buffers: Record<string, tf.TensorInfo> = {};
  of.outputs.forEach((name, i) => {
    buffers[name] = outputs[i];
  });
  for (const name of [...of.inputs, ...(of.scalars ?? [])]) buffers[name] = inputs[name];
  runShader(backend, {
    shader: of.shaderOf(isWide ? 'vec4f' : 'f32'),
    buffers,
    uniforms: {count, ...values},
    threads: count,
  });
}
