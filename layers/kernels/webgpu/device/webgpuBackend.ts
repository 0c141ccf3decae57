import type * as tf from '@tensorflow/tfjs';
import {keptFor} from '../../keptFor.ts';
import type {BufferPool} from './bufferPool.ts';
import {shader} from './shader.ts';

/** The parts of TensorFlow.js's webgpu backend that these kernels use. */
export interface WebGPUBackend extends tf.KernelBackend {
  device: GPUDevice;
  queue: GPUQueue;
  commandEncoder: GPUCommandEncoder | null;
  computePassEncoder: GPUComputePassEncoder | null;
  dispatchCountInPass: number;
  bufferManager: BufferPool;
  /** Tensors that commands not yet submitted use; their buffers must not be reused before. */
  commandQueueOwnedIds: WeakSet<tf.DataId>;
  tensorMap: {get(dataId: tf.DataId): {resource?: GPUBuffer | null; values?: unknown; dtype: tf.DataType}};
  /** Pipelines by a program's key; promises while TensorFlow.js only compiles. */
  pipelineCache: Record<string, GPUComputePipeline | Promise<GPUComputePipeline>>;
  /** Runs TensorFlow.js's own shaders. */
  runWebGPUProgram(...args: unknown[]): tf.TensorInfo;
  /** Returns a number that grows with each call. */
  nextDataId(): number;
  makeTensorInfo(shape: number[], dtype: tf.DataType, values?: tf.TypedArray): tf.TensorInfo;
  uploadToGPU(dataId: tf.DataId): void;
  copyBuffer(source: GPUBuffer): GPUBuffer;
  /** Runs a stock program. */
  recordAndSubmit(program: unknown, output: tf.TensorInfo, inputs: tf.TensorInfo[], uniforms: unknown): void;
  makeUniforms(values: unknown): {buffer: GPUBuffer};
  /** Uniform buffers of stock programs, given back when their commands are submitted. */
  uniformPendingDisposal: GPUBuffer[];
  disposeData(dataId: tf.DataId, force?: boolean): boolean;
  refCount(dataId: tf.DataId): number;
  incRef(dataId: tf.DataId): void;
  ensureCommandEncoderReady(): void;
  endComputePassEncoder(): void;
  submitQueue(): void;
  read(dataId: tf.DataId): Promise<tf.backend_util.BackendValues>;
}

/** Submits the recorded commands, if there are any. */
export function submitRecorded(backend: WebGPUBackend): void {
  if (!backend.commandEncoder) return;
  backend.endComputePassEncoder();
  backend.submitQueue();
}

/** Whether a tensor's buffer holds float32: one cast from int32 has that dtype but keeps the integers' buffer. */
export function holdsFloat32({tensorMap}: WebGPUBackend, {dataId, dtype}: tf.TensorInfo): boolean {
  return dtype === 'float32' && tensorMap.get(dataId).dtype === 'float32';
}

/** What the device can do, and the settings for it. */
export interface Capabilities {
  hasF16: boolean;
  hasSubgroups: boolean;
  /** Whether a whole subgroup of 32 multiplies 16×16 matrices of f16 into f32. */
  hasMatrices: boolean;
  /** Whether it multiplies them into f16, too. */
  hasHalfSums: boolean;
  /**
   * Whether a subgroup's accesses of workgroup memory keep their order, so that its lanes read what its matrices wrote
   * without a barrier. WGSL does not promise it and has no barrier for one subgroup; NVIDIA's warps do it.
   */
  keepsOrder: boolean;
  /** The number type in which large products are computed. */
  computeDtype: 'float16' | 'float32';
}

const capabilities = keptFor(
  (device: GPUDevice): Capabilities => ({
    hasF16: device.features.has('shader-f16'),
    hasSubgroups: device.features.has('subgroups' as GPUFeatureName),
    hasMatrices: false, // until tried
    hasHalfSums: false,
    keepsOrder: device.adapterInfo?.vendor === 'nvidia',
    computeDtype: 'float32',
  }),
);

/** Returns the device's capabilities; `computeDtype` may be set on the result. */
export const capabilitiesOf = ({device}: WebGPUBackend): Capabilities => capabilities(device);

/**
 * Finds out whether the device multiplies 16×16 matrices of f16 into f32 and f16, by having it compile shaders that do. The
 * feature's name says nothing about types and sizes.
 */
export async function tryMatrices(backend: WebGPUBackend, subgroupSize: number | undefined): Promise<void> {
  const {device} = backend;
  const found = capabilitiesOf(backend);
  const isOffered = device.features.has('chromium-experimental-subgroup-matrix' as GPUFeatureName);
  if (!isOffered || !found.hasF16 || !found.hasSubgroups || subgroupSize !== 32) return;
  found.hasMatrices = await compiles(device, trial('f32').code);
  found.hasHalfSums = found.hasMatrices && (await compiles(device, trial('f16').code));
}

async function compiles(device: GPUDevice, code: string): Promise<boolean> {
  device.pushErrorScope('validation');
  const module = device.createShaderModule({code});
  const compiled = await device
    .createComputePipelineAsync({layout: 'auto', compute: {module, entryPoint: 'main'}})
    .then(
      () => true,
      () => false,
    );
  const error = await device.popErrorScope();
  return compiled && error === null;
}

const trial = shader((sums: 'f32' | 'f16') => ({
  name: 'TryMatrices',
  outputs: {y: 'f32'},
  inputs: {},
  workgroup: 32,
  header: `
enable f16;
enable subgroups;
enable chromium_experimental_subgroup_matrix;`,
  globals: `
var<workgroup> tile: array<f16, 256>;
var<workgroup> result: array<${sums}, 256>;`,
  body: `
  let a = subgroupMatrixLoad<subgroup_matrix_left<f16, 16, 16>, row_major>(&tile, 0u, 16u);
  let b = subgroupMatrixLoad<subgroup_matrix_right<f16, 16, 16>, row_major>(&tile, 0u, 16u);
  var c: subgroup_matrix_result<${sums}, 16, 16>;
  c = subgroupMatrixMultiplyAccumulate(a, b, c);
  subgroupMatrixStore<row_major>(&result, 0u, c, 16u);
  workgroupBarrier();
  y[local] = f32(result[local]);`,
}));
