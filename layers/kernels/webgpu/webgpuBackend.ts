import type * as tf from '@tensorflow/tfjs';

/** What these kernels use of TensorFlow.js's webgpu backend. */
export interface WebGPUBackend extends tf.KernelBackend {
  device: GPUDevice;
  queue: GPUQueue;
  commandEncoder: GPUCommandEncoder | null;
  computePassEncoder: GPUComputePassEncoder | null;
  dispatchCountInPass: number;
  /** Tensors that commands not yet submitted use: their buffers must not be reused before. */
  commandQueueOwnedIds: WeakSet<tf.DataId>;
  tensorMap: {get(dataId: tf.DataId): {resource?: GPUBuffer | null; values?: unknown; dtype: tf.DataType}};
  makeTensorInfo(shape: number[], dtype: tf.DataType, values?: tf.TypedArray): tf.TensorInfo;
  uploadToGPU(dataId: tf.DataId): void;
  disposeData(dataId: tf.DataId, force?: boolean): boolean;
  ensureCommandEncoderReady(): void;
  endComputePassEncoder(): void;
  submitQueue(): void;
  read(dataId: tf.DataId): Promise<tf.backend_util.BackendValues>;
}

/** What the device can do, and what was asked of it. */
export interface Capabilities {
  hasF16: boolean;
  hasSubgroups: boolean;
  /** Products of 16×16 matrices of f16 into f32, by a whole subgroup of 32. */
  hasMatrices: boolean;
  /** What large products are multiplied in. */
  computeDtype: 'float16' | 'float32';
}

const capabilities = new WeakMap<GPUDevice, Capabilities>();

/** The device's capabilities; `computeDtype` may be set on what is returned. */
export function capabilitiesOf({device}: WebGPUBackend): Capabilities {
  const known = capabilities.get(device);
  if (known) return known;
  const has = (feature: string) => device.features.has(feature);
  const found: Capabilities = {
    hasF16: has('shader-f16'),
    hasSubgroups: has('subgroups'),
    hasMatrices:
      has('shader-f16') &&
      has('subgroups') &&
      has('chromium-experimental-subgroup-matrix') &&
      has16x16x16(device),
    computeDtype: 'float32',
  };
  capabilities.set(device, found);
  return found;
}

interface MatrixConfig {
  componentType: string;
  resultComponentType: string;
  M: number;
  N: number;
  K: number;
}

function has16x16x16(device: GPUDevice): boolean {
  const {subgroupMatrixConfigs, subgroupMinSize, subgroupMaxSize} = device.adapterInfo as GPUAdapterInfo & {
    subgroupMatrixConfigs?: Iterable<MatrixConfig>;
  };
  return (
    subgroupMinSize === 32 &&
    subgroupMaxSize === 32 &&
    [...(subgroupMatrixConfigs ?? [])].some(
      ({componentType, resultComponentType, M, N, K}) =>
        componentType === 'f16' && resultComponentType === 'f32' && M === 16 && N === 16 && K === 16,
    )
  );
}
