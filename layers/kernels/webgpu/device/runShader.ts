import type * as tf from '@tensorflow/tfjs';
import {keptFor} from '../../keptFor.ts';
import {type Command, encode, recordingOf} from './commandRecording.ts';
import {sizeOf} from './octets.ts';
import type {RowsView} from './rowsView.ts';
import type {BuffersOf, Shader, ShaderDeclaration, ValuesOf} from './shader.ts';
import {newUniformBuffer, type Uniforms} from './uniforms.ts';
import type {WebGPUBackend} from './webgpuBackend.ts';

/** A dispatch of a shader. */
export interface ShaderCall<D extends ShaderDeclaration = ShaderDeclaration> {
  shader: Shader<D>;
  /**
   * Tensors that the caller made, outputs as well (`backend.makeTensorInfo`). None may be both an output and an input.
   */
  buffers: NoInfer<BuffersOf<D>>;
  uniforms: NoInfer<ValuesOf<D>>;
  /**
   * Number of workgroups along each axis or in total; with a total, WGSL `flatGroup` is the index of each. Default one.
   */
  workgroups?: number | [x: number, y?: number, z?: number];
  /** Replaces `workgroups`: the number of threads, in as many workgroups as they need. */
  threads?: number;
}

/** A compiled shader, its layout, and the bind groups it ran with, by their buffers and uniforms. */
interface CompiledShader {
  pipeline: GPUComputePipeline;
  layout: GPUBindGroupLayout;
  groups: Map<string, GPUBindGroup>;
}

interface DeviceState {
  shaders: Map<string, CompiledShader>;
  uniforms: Map<string, GPUBuffer>;
  /** Number of bind groups in all shaders. */
  groupCount: number;
  dryRun?: DryRun;
}

type Text = Pick<Shader, 'name' | 'code'>;

/** What a run without dispatches collects. */
export interface DryRun {
  /** Shaders that are not compiled yet, by their text. */
  shaders: Map<string, Text>;
  /** Tensors that were not computed. */
  outputs: tf.DataId[];
}

const stateOf = keptFor(
  (_: GPUDevice): DeviceState => ({shaders: new Map(), uniforms: new Map(), groupCount: 0}),
);

/** Uniform buffers are kept by their contents; beyond this many the oldest are dropped. */
const MAX_UNIFORMS = 4096;

/** Beyond this many bind groups all are dropped; those still in use soon exist again. */
const MAX_GROUPS = 16384;

let nextBufferId = 0;
/** Numbers a buffer; the keys of bind groups are made from these numbers. */
const idOf = keptFor((_: GPUBuffer) => nextBufferId++);

/**
 * Records a dispatch among the backend's own commands. Unlike with `runWebGPUProgram`, the shader is a whole one: it
 * may enable extensions and have several outputs.
 *
 * Steps and tokens repeat, and the backend then hands out the same buffers in the same order. So pipelines are kept by
 * their text, and bind groups by their buffers and uniforms, and most dispatches make no WebGPU object.
 */
export function runShader<D extends ShaderDeclaration>(backend: WebGPUBackend, call: ShaderCall<D>): void {
  const {shader, buffers: tensors, uniforms} = call as ShaderCall;
  const state = stateOf(backend.device);
  if (state.dryRun) {
    note(backend, state.dryRun, call as ShaderCall);
    return;
  }
  const {pipeline, layout, groups} = compiled(backend.device, state, shader);
  const buffers: GPUBuffer[] = [];
  const bindings: GPUBufferBinding[] = [];
  let key = '';
  for (const name of shader.buffers) {
    const view = tensors[name] as RowsView;
    const {dataId, firstByte} = view;
    const entry = backend.tensorMap.get(dataId);
    if (!entry.resource) backend.uploadToGPU(dataId); // before the pass: an upload ends it
    backend.commandQueueOwnedIds.add(dataId);
    const buffer = entry.resource as GPUBuffer;
    buffers.push(buffer);
    key += `${idOf(buffer)},`;
    if (firstByte === undefined) {
      bindings.push({buffer});
    } else {
      const size = 4 * sizeOf(view);
      bindings.push({buffer, offset: firstByte, size});
      key += `${firstByte}+${size},`;
    }
  }
  let values = '';
  for (const {name, type} of shader.uniforms)
    values += type === 'f32' ? `${uniforms[name]}f,` : `${uniforms[name]},`;
  key += values;
  const recording = recordingOf(backend);
  const isCounting = recording !== undefined && shader.uniforms.some(({type}) => type === 'counter');
  let group = isCounting
    ? groupOf(backend, layout, [
        ...bindings,
        {buffer: recording.counterBuffer(values, membersOf(shader, uniforms))},
      ])
    : groups.get(key);
  if (!group) {
    const own =
      values === ''
        ? []
        : [{buffer: uniformBuffer(backend, state.uniforms, values, membersOf(shader, uniforms))}];
    group = groupOf(backend, layout, [...bindings, ...own]);
    if (state.groupCount++ >= MAX_GROUPS) dropGroups(state);
    groups.set(key, group);
  }
  const command = {pipeline, group, workgroups: workgroupsOf(backend, call as ShaderCall)};
  recording?.add(command, buffers);
  encode(backend, command);
}

const membersOf = (shader: Shader, values: Record<string, number>): Uniforms =>
  shader.uniforms.map(({name, type}) => ({type, value: values[name]}));

/** Returns the workgroups per axis; folds a number that exceeds the device's limit along one axis. */
function workgroupsOf(
  {device}: WebGPUBackend,
  {shader, workgroups = 1, threads}: ShaderCall,
): Command['workgroups'] {
  if (typeof workgroups !== 'number') return workgroups;
  const count = threads === undefined ? workgroups : Math.ceil(threads / shader.workgroup);
  const limit = device.limits.maxComputeWorkgroupsPerDimension;
  return count <= limit ? [count, 1] : [limit, Math.ceil(count / limit)];
}

function groupOf(
  {device}: WebGPUBackend,
  layout: GPUBindGroupLayout,
  resources: GPUBufferBinding[],
): GPUBindGroup {
  const entries = resources.map((resource, binding) => ({binding, resource}));
  return device.createBindGroup({layout, entries});
}

function compiled(device: GPUDevice, {shaders}: DeviceState, text: Text): CompiledShader {
  const known = shaders.get(text.code);
  if (known) return known;
  const shader = shaderOf(device.createComputePipeline(descriptorOf(device, text)));
  shaders.set(text.code, shader);
  return shader;
}

const shaderOf = (pipeline: GPUComputePipeline): CompiledShader => ({
  pipeline,
  layout: pipeline.getBindGroupLayout(0),
  groups: new Map(),
});

const descriptorOf = (device: GPUDevice, {name, code}: Text): GPUComputePipelineDescriptor => ({
  label: name,
  layout: 'auto',
  compute: {module: device.createShaderModule({code, label: name}), entryPoint: 'main'},
});

/** Compiles a shader on one of the driver's threads, for {@link runShader} to find it. */
export async function compileAside(device: GPUDevice, text: Text): Promise<void> {
  const {shaders} = stateOf(device);
  const pipeline = await device.createComputePipelineAsync(descriptorOf(device, text));
  if (!shaders.has(text.code)) shaders.set(text.code, shaderOf(pipeline));
}

/** While `dryRun` is set, shaders are noted in it instead of being dispatched. */
export function setDryRun(device: GPUDevice, dryRun: DryRun | undefined): void {
  stateOf(device).dryRun = dryRun;
}

/** Whether shaders are noted instead of being dispatched. */
export const isDryRun = (device: GPUDevice): boolean => stateOf(device).dryRun !== undefined;

function note(backend: WebGPUBackend, dryRun: DryRun, {shader, buffers}: ShaderCall): void {
  const {name, code, outputs} = shader;
  for (const output of outputs) {
    const {dataId} = buffers[output] as tf.TensorInfo;
    backend.uploadToGPU(dataId); // a tensor without a buffer counts as one on the host
    dryRun.outputs.push(dataId);
  }
  if (!stateOf(backend.device).shaders.has(code)) dryRun.shaders.set(code, {name, code});
}

function dropGroups(state: DeviceState): void {
  for (const {groups} of state.shaders.values()) groups.clear();
  state.groupCount = 1;
}

/** @param key the values as text */
function uniformBuffer(
  backend: WebGPUBackend,
  buffers: Map<string, GPUBuffer>,
  key: string,
  uniforms: Uniforms,
): GPUBuffer {
  const known = buffers.get(key);
  if (known) return known;
  if (buffers.size >= MAX_UNIFORMS) buffers.delete(buffers.keys().next().value as string);
  const buffer = newUniformBuffer(backend, uniforms);
  buffers.set(key, buffer);
  return buffer;
}
