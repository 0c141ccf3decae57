import {GUARANTEED_LIMITS} from './guaranteedLimits.ts';

/**
 * A WebGPU device that computes nothing and reads back zeros. It shows what a step allocates on a card, and the time it
 * takes on the host, without a card. It refuses larger buffers and more bindings than its limits allow.
 *
 * @param isSmall whether it has the guaranteed limits and no features. By default, it has those of an NVIDIA card
 */
export function installAbsentDevice(isSmall: boolean): void {
  const device = isSmall ? absentDevice(GUARANTEED_LIMITS, []) : absentDevice(NVIDIA_LIMITS, NVIDIA_FEATURES);
  const adapter = {
    features: device.features,
    limits: device.limits,
    info: {
      ...{vendor: 'none', architecture: '', device: '', description: 'no device'},
      ...{isFallbackAdapter: false, subgroupMinSize: 32, subgroupMaxSize: 32},
    },
    requestDevice: async () => device,
  };
  const navigator = globalThis.navigator ?? {};
  Object.defineProperty(navigator, 'gpu', {value: {requestAdapter: async () => adapter}, configurable: true});
  Object.defineProperty(globalThis, 'navigator', {value: navigator, configurable: true});
  Object.assign(globalThis, {
    ...{GPUBuffer: AbsentBuffer, GPUTexture: AbsentTexture, GPUExternalTexture: AbsentTexture},
    GPUBufferUsage: {
      ...{MAP_READ: 1, MAP_WRITE: 2, COPY_SRC: 4, COPY_DST: 8, INDEX: 16, VERTEX: 32},
      ...{UNIFORM: 64, STORAGE: 128, INDIRECT: 256, QUERY_RESOLVE: 512},
    },
    GPUMapMode: {READ: 1, WRITE: 2},
    GPUShaderStage: {VERTEX: 1, FRAGMENT: 2, COMPUTE: 4},
    GPUTextureUsage: {
      COPY_SRC: 1,
      COPY_DST: 2,
      TEXTURE_BINDING: 4,
      STORAGE_BINDING: 8,
      RENDER_ATTACHMENT: 16,
    },
  });
}

/** The classes of resources, because TensorFlow.js uses `instanceof` for them. */
class AbsentBuffer {
  constructor(
    readonly size: number,
    readonly usage: number,
  ) {}
  async mapAsync(): Promise<void> {}
  getMappedRange(): ArrayBuffer {
    return new ArrayBuffer(this.size);
  }
  unmap(): void {}
  destroy(): void {}
}

class AbsentTexture {}

const NVIDIA_FEATURES = ['shader-f16', 'subgroups', 'chromium-experimental-subgroup-matrix'];
const NVIDIA_LIMITS: typeof GUARANTEED_LIMITS = {
  ...GUARANTEED_LIMITS,
  ...{maxBufferSize: 2 ** 40, maxStorageBufferBindingSize: 2 ** 31 - 4, maxStorageBuffersPerShaderStage: 16},
  ...{maxComputeWorkgroupStorageSize: 49152, maxComputeInvocationsPerWorkgroup: 1024},
  ...{maxComputeWorkgroupSizeX: 1024, maxComputeWorkgroupSizeY: 1024},
};

function absentDevice(limits: typeof GUARANTEED_LIMITS, features: string[]) {
  const nothing = () => {};
  const pass = {setPipeline: nothing, setBindGroup: nothing, dispatchWorkgroups: nothing, end: nothing};
  const encoder = {
    beginComputePass: () => pass,
    copyBufferToBuffer: nothing,
    clearBuffer: nothing,
    finish: () => ({}),
  };
  const pipeline = {getBindGroupLayout: () => ({})};
  return {
    features: new Set(features),
    limits,
    lost: new Promise(nothing),
    queue: {submit: nothing, writeBuffer: nothing, onSubmittedWorkDone: async () => {}},
    createBuffer: ({size, usage}: {size: number; usage: number}) => {
      if (size > limits.maxBufferSize) throw new Error(`a buffer of ${size} bytes`);
      return new AbsentBuffer(size, usage);
    },
    createShaderModule: () => ({}),
    createComputePipeline: () => pipeline,
    createComputePipelineAsync: async () => pipeline,
    createBindGroup: ({entries}: {entries: {resource: {buffer: AbsentBuffer; size?: number}}[]}) => {
      const bound = entries.map(({resource}) => resource).filter(({buffer}) => buffer.usage & 128);
      const largest = Math.max(...bound.map(({buffer, size = buffer.size}) => size));
      if (largest > limits.maxStorageBufferBindingSize) throw new Error(`a binding of ${largest} bytes`);
      if (bound.length > limits.maxStorageBuffersPerShaderStage) throw new Error(`${bound.length} buffers`);
      return {};
    },
    createBindGroupLayout: () => ({}),
    createPipelineLayout: () => ({}),
    createCommandEncoder: () => encoder,
    pushErrorScope: nothing,
    popErrorScope: async () => null,
    addEventListener: nothing,
    destroy: nothing,
  };
}
