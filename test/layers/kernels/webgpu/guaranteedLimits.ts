import {GUARANTEED_LIMITS} from '../../../../bench/gpu/guaranteedLimits.ts';

/**
 * Makes WebGPU offer only a device without features and with the guaranteed limits, which the driver enforces. Call it
 * before the backend starts.
 *
 * @param bindingSize the most bytes that a buffer or binding may have, fewer than WebGPU guarantees; larger ones throw
 */
export async function installGuaranteedDevice(bindingSize: number): Promise<void> {
  const adapter = await navigator.gpu.requestAdapter();
  if (!adapter) throw new Error('expected a WebGPU driver, got none');
  const device = await adapter.requestDevice();
  for (const [name, limit] of Object.entries(GUARANTEED_LIMITS))
    expect(device.limits[name as 'maxBufferSize']).toBe(limit);
  const limits = {...GUARANTEED_LIMITS, maxBufferSize: bindingSize, maxStorageBufferBindingSize: bindingSize};
  Object.defineProperty(device, 'limits', {value: limits});
  const createBuffer = device.createBuffer.bind(device);
  device.createBuffer = (descriptor) => {
    if (descriptor.size > bindingSize) throw new Error(`a buffer of ${descriptor.size} bytes`);
    return createBuffer(descriptor);
  };
  const offered = {
    features: new Set<string>(),
    limits,
    info: adapter.info,
    requestDevice: async () => device,
  };
  Object.defineProperty(globalThis, 'navigator', {
    value: {gpu: {requestAdapter: async () => offered}},
    configurable: true,
  });
}
