import type {UniformType} from './shader.ts';
import type {WebGPUBackend} from './webgpuBackend.ts';

/** The members of a uniform struct, in order. */
export type Uniforms = {type: UniformType; value: number}[];

/** Makes a buffer with the values. */
export function newUniformBuffer(backend: WebGPUBackend, uniforms: Uniforms): GPUBuffer {
  const buffer = backend.device.createBuffer({
    size: bytesOf(uniforms).byteLength,
    usage: GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST,
  });
  writeUniforms(backend, buffer, uniforms);
  return buffer;
}

/** @param runs by how much counters have grown */
export function writeUniforms({queue}: WebGPUBackend, buffer: GPUBuffer, uniforms: Uniforms, runs = 0): void {
  queue.writeBuffer(buffer, 0, bytesOf(uniforms, runs));
}

/** Returns the bytes of the struct, which takes whole vectors. */
function bytesOf(uniforms: Uniforms, runs = 0): ArrayBuffer {
  const bytes = new ArrayBuffer(16 * Math.ceil(uniforms.length / 4));
  const view = new DataView(bytes);
  for (const [i, {type, value}] of uniforms.entries()) {
    if (type === 'f32') view.setFloat32(4 * i, value, true);
    else view.setUint32(4 * i, type === 'counter' ? value + runs : value, true); // a negative i32 has the same bits
  }
  return bytes;
}
