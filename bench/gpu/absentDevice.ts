/**
 * A WebGPU device that computes nothing and reads back zeros. It shows what a step allocates on a card, and the time it
 * takes on the host, without a card. It reports the features of an NVIDIA card.
 */
export function installAbsentDevice(): void {
  const device = absentDevice();
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

function absentDevice() {
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
    features: new Set(['shader-f16', 'subgroups', 'chromium-experimental-subgroup-matrix']),
    limits: {
      ...{
        maxBufferSize: 2 ** 40,
        maxStorageBufferBindingSize: 2 ** 31 - 4,
        maxUniformBufferBindingSize: 65536,
      },
      ...{maxStorageBuffersPerShaderStage: 16, maxComputeWorkgroupStorageSize: 49152},
      ...{maxComputeInvocationsPerWorkgroup: 1024, maxComputeWorkgroupsPerDimension: 65535},
      ...{maxComputeWorkgroupSizeX: 1024, maxComputeWorkgroupSizeY: 1024, maxComputeWorkgroupSizeZ: 64},
      ...{minUniformBufferOffsetAlignment: 256, minStorageBufferOffsetAlignment: 256},
    },
    lost: new Promise(nothing),
    queue: {submit: nothing, writeBuffer: nothing, onSubmittedWorkDone: async () => {}},
    createBuffer: ({size, usage}: {size: number; usage: number}) => new AbsentBuffer(size, usage),
    createShaderModule: () => ({}),
    createComputePipeline: () => pipeline,
    createComputePipelineAsync: async () => pipeline,
    createBindGroup: () => ({}),
    createBindGroupLayout: () => ({}),
    createPipelineLayout: () => ({}),
    createCommandEncoder: () => encoder,
    pushErrorScope: nothing,
    popErrorScope: async () => null,
    addEventListener: nothing,
    destroy: nothing,
  };
}
