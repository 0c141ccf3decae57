import type * as tf from '@tensorflow/tfjs';
import {encode, recordingOf} from './commandRecording.ts';
import {newUniformBuffer, type Uniforms} from './uniforms.ts';
import type {WebGPUBackend} from './webgpuBackend.ts';

export interface ShaderCall {
  /** Shown in profiles and by graphics debuggers. */
  name: string;
  /**
   * WGSL with an entry point `main`. Bindings of group 0, in order: the outputs (`read_write`), the inputs (`read`), and,
   * where there are `uniforms`, a uniform struct. It is the pipeline's key: the same text is compiled once. Built by
   * `shaderText`, it is found at once.
   */
  code: string;
  outputs: tf.TensorInfo[];
  inputs: tf.TensorInfo[];
  uniforms?: Uniforms;
  workgroups: [x: number, y?: number, z?: number];
}

/** A compiled shader, its layout, and the bind groups it ran with, by the buffers and uniforms in them. */
interface CompiledShader {
  pipeline: GPUComputePipeline;
  layout: GPUBindGroupLayout;
  groups: Map<string, GPUBindGroup>;
}

interface DeviceState {
  shaders: Map<string, CompiledShader>;
  uniforms: Map<string, GPUBuffer>;
  /** Bind groups in all shaders. */
  groupCount: number;
  dryRun?: DryRun;
}

type Shader = Pick<ShaderCall, 'name' | 'code'>;

/** What is met where nothing is dispatched. */
export interface DryRun {
  /** Shaders that are not compiled yet, by their text. */
  shaders: Map<string, Shader>;
  /** What was not computed. */
  outputs: tf.DataId[];
}

const states = new WeakMap<GPUDevice, DeviceState>();

/** Uniform buffers are kept by their contents; past this many the oldest go. */
const MAX_UNIFORMS = 4096;

/** Past this many bind groups all are dropped: what recurs is soon there again. */
const MAX_GROUPS = 16384;

/** Buffers by number: what a bind group is found by. */
const bufferIds = new WeakMap<GPUBuffer, number>();
let nextBufferId = 0;

/**
 * Records one dispatch among the backend's own commands. Unlike `runWebGPUProgram` the shader is whole: it may enable
 * extensions, and has several outputs.
 *
 * Steps and tokens repeat themselves, and the backend hands out the same buffers in the same order; so pipelines are kept by
 * their text (see `shaderText`), and bind groups by their buffers and uniforms: most dispatches make no WebGPU object.
 *
 * Outputs are made by the caller (`backend.makeTensorInfo`); an output that is an input as well is not allowed.
 */
export function runShader(backend: WebGPUBackend, call: ShaderCall): void {
  const {outputs, inputs, uniforms = [], workgroups} = call;
  const state = stateOf(backend.device);
  if (state.dryRun) {
    note(backend, state.dryRun, call);
    return;
  }
  const shader = compiled(backend.device, state, call);
  const buffers: GPUBuffer[] = [];
  let key = '';
  for (const tensors of [outputs, inputs]) {
    for (const {dataId} of tensors) {
      const entry = backend.tensorMap.get(dataId);
      if (!entry.resource) backend.uploadToGPU(dataId); // before the pass: an upload ends it
      backend.commandQueueOwnedIds.add(dataId);
      const buffer = entry.resource as GPUBuffer;
      buffers.push(buffer);
      key += `${idOf(buffer)},`;
    }
  }
  let values = '';
  for (const value of uniforms) values += 'u32' in value ? `${value.u32},` : `${value.f32}f,`;
  key += values;
  const recording = recordingOf(backend);
  const isCounting = recording !== undefined && uniforms.some((value) => 'step' in value);
  let group = isCounting
    ? groupOf(backend, shader, [...buffers, recording.counterBuffer(values, uniforms)])
    : shader.groups.get(key);
  if (!group) {
    const own = uniforms.length > 0 ? [uniformBuffer(backend, state.uniforms, values, uniforms)] : [];
    group = groupOf(backend, shader, [...buffers, ...own]);
    if (state.groupCount++ >= MAX_GROUPS) dropGroups(state);
    shader.groups.set(key, group);
  }
  const command = {pipeline: shader.pipeline, group, workgroups};
  recording?.add(command, buffers);
  encode(backend, command);
}

function groupOf({device}: WebGPUBackend, {layout}: CompiledShader, buffers: GPUBuffer[]): GPUBindGroup {
  return device.createBindGroup({
    layout,
    entries: buffers.map((buffer, binding) => ({binding, resource: {buffer}})),
  });
}

function stateOf(device: GPUDevice): DeviceState {
  let state = states.get(device);
  if (!state) {
    state = {shaders: new Map(), uniforms: new Map(), groupCount: 0};
    states.set(device, state);
  }
  return state;
}

function compiled(device: GPUDevice, {shaders}: DeviceState, call: Shader): CompiledShader {
  const known = shaders.get(call.code);
  if (known) return known;
  const shader = shaderOf(device.createComputePipeline(descriptorOf(device, call)));
  shaders.set(call.code, shader);
  return shader;
}

const shaderOf = (pipeline: GPUComputePipeline): CompiledShader => ({
  pipeline,
  layout: pipeline.getBindGroupLayout(0),
  groups: new Map(),
});

const descriptorOf = (device: GPUDevice, {name, code}: Shader): GPUComputePipelineDescriptor => ({
  label: name,
  layout: 'auto',
  compute: {module: device.createShaderModule({code, label: name}), entryPoint: 'main'},
});

/** Compiles a shader on a thread of the device's own, for {@link runShader} to find it. */
export async function compileAside(device: GPUDevice, shader: Shader): Promise<void> {
  const {shaders} = stateOf(device);
  const pipeline = await device.createComputePipelineAsync(descriptorOf(device, shader));
  if (!shaders.has(shader.code)) shaders.set(shader.code, shaderOf(pipeline));
}

/** From now on shaders are not dispatched but noted in `dryRun`, until it is undefined again. */
export function setDryRun(device: GPUDevice, dryRun: DryRun | undefined): void {
  stateOf(device).dryRun = dryRun;
}

/** Whether nothing is dispatched at present. */
export const isDryRun = (device: GPUDevice): boolean => stateOf(device).dryRun !== undefined;

function note(backend: WebGPUBackend, dryRun: DryRun, {name, code, outputs}: ShaderCall): void {
  for (const {dataId} of outputs) {
    backend.uploadToGPU(dataId); // what lies nowhere is taken to be on the host
    dryRun.outputs.push(dataId);
  }
  if (!stateOf(backend.device).shaders.has(code)) dryRun.shaders.set(code, {name, code});
}

function idOf(buffer: GPUBuffer): number {
  let id = bufferIds.get(buffer);
  if (id === undefined) {
    id = nextBufferId++;
    bufferIds.set(buffer, id);
  }
  return id;
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

/** Workgroups for `count` items along one axis, folded where a device's limit asks: see {@link FLAT_ID}. */
export function flatWorkgroups({device}: WebGPUBackend, count: number): [number, number] {
  const limit = device.limits.maxComputeWorkgroupsPerDimension;
  return count <= limit ? [count, 1] : [limit, Math.ceil(count / limit)];
}

/** The index of a workgroup that {@link flatWorkgroups} dispatched. */
export const FLAT_ID = `
fn flatId(id: vec3u, count: vec3u) -> u32 { return id.y * count.x + id.x; }`;
