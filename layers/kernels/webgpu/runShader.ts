import * as tf from '@tensorflow/tfjs';
import type {WebGPUBackend} from './webgpuBackend.ts';

export interface ShaderCall {
  /** Shown in profiles and by graphics debuggers. */
  name: string;
  /**
   * WGSL with an entry point `main`. Bindings of group 0, in order: the outputs (`read_write`), the inputs (`read`), and,
   * where there are `uniforms`, a uniform struct. It is the pipeline's key: the same text is compiled once.
   */
  code: string;
  outputs: tf.TensorInfo[];
  inputs: tf.TensorInfo[];
  /** 32-bit members of the uniform struct, in order. */
  uniforms?: ({u32: number} | {f32: number})[];
  workgroups: [x: number, y?: number, z?: number];
}

interface DeviceState {
  pipelines: Map<string, GPUComputePipeline>;
  uniforms: Map<string, GPUBuffer>;
}

const states = new WeakMap<GPUDevice, DeviceState>();

/** Uniform buffers are kept by their contents; past this many the oldest go. */
const MAX_UNIFORMS = 4096;

/**
 * Records one dispatch among the backend's own commands. Unlike `runWebGPUProgram` the shader is whole: it may enable
 * extensions, and has several outputs.
 *
 * Outputs are made by the caller (`backend.makeTensorInfo`); an output that is an input as well is not allowed.
 */
export function runShader(backend: WebGPUBackend, call: ShaderCall): void {
  const {outputs, inputs, uniforms = [], workgroups} = call;
  const tensors = [...outputs, ...inputs];
  for (const {dataId} of tensors) backend.uploadToGPU(dataId); // before the pass: an upload ends it
  const {pipelines, uniforms: buffers} = stateOf(backend.device);
  const pipeline = pipelineOf(backend.device, pipelines, call);
  const resources = tensors.map(({dataId}) => backend.tensorMap.get(dataId).resource as GPUBuffer);
  if (uniforms.length > 0) resources.push(uniformBuffer(backend, buffers, uniforms));
  for (const {dataId} of tensors) backend.commandQueueOwnedIds.add(dataId);
  const bindGroup = backend.device.createBindGroup({
    layout: pipeline.getBindGroupLayout(0),
    entries: resources.map((buffer, binding) => ({binding, resource: {buffer}})),
  });
  backend.ensureCommandEncoderReady();
  backend.computePassEncoder ??= (backend.commandEncoder as GPUCommandEncoder).beginComputePass();
  const pass = backend.computePassEncoder;
  pass.setPipeline(pipeline);
  pass.setBindGroup(0, bindGroup);
  pass.dispatchWorkgroups(...workgroups);
  backend.dispatchCountInPass++;
  if (backend.dispatchCountInPass >= tf.env().getNumber('WEBGPU_DEFERRED_SUBMIT_BATCH_SIZE')) {
    backend.endComputePassEncoder();
    backend.submitQueue();
  }
}

function stateOf(device: GPUDevice): DeviceState {
  let state = states.get(device);
  if (!state) {
    state = {pipelines: new Map(), uniforms: new Map()};
    states.set(device, state);
  }
  return state;
}

function pipelineOf(
  device: GPUDevice,
  pipelines: Map<string, GPUComputePipeline>,
  {name, code}: ShaderCall,
): GPUComputePipeline {
  const known = pipelines.get(code);
  if (known) return known;
  const module = device.createShaderModule({code, label: name});
  const pipeline = device.createComputePipeline({
    label: name,
    layout: 'auto',
    compute: {module, entryPoint: 'main'},
  });
  pipelines.set(code, pipeline);
  return pipeline;
}

function uniformBuffer(
  {device, queue}: WebGPUBackend,
  buffers: Map<string, GPUBuffer>,
  uniforms: NonNullable<ShaderCall['uniforms']>,
): GPUBuffer {
  const bytes = new ArrayBuffer(16 * Math.ceil(uniforms.length / 4));
  const view = new DataView(bytes);
  uniforms.forEach((value, i) => {
    if ('u32' in value) view.setUint32(4 * i, value.u32, true);
    else view.setFloat32(4 * i, value.f32, true);
  });
  const key = new Uint32Array(bytes).join();
  const known = buffers.get(key);
  if (known) return known;
  if (buffers.size >= MAX_UNIFORMS) buffers.delete(buffers.keys().next().value as string);
  const buffer = device.createBuffer({
    size: bytes.byteLength,
    usage: GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST,
  });
  queue.writeBuffer(buffer, 0, bytes);
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
