import type {WebGPUBackend} from './webgpuBackend.ts';

/** 32-bit members of a uniform struct, in order; `step`: what a member grows by with each replay of recorded commands. */
export type Uniforms = ({u32: number; step?: number} | {f32: number})[];

/** A buffer with the values. */
export function newUniformBuffer(backend: WebGPUBackend, uniforms: Uniforms): GPUBuffer {
  const buffer = backend.device.createBuffer({
    size: bytesOf(uniforms).byteLength,
    usage: GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST,
  });
  writeUniforms(backend, buffer, uniforms);
  return buffer;
}

/** @param runs how often values with a `step` have grown */
export function writeUniforms({queue}: WebGPUBackend, buffer: GPUBuffer, uniforms: Uniforms, runs = 0): void {
  queue.writeBuffer(buffer, 0, bytesOf(uniforms, runs));
}

/** The struct, which takes whole vectors. */
function bytesOf(uniforms: Uniforms, runs = 0): ArrayBuffer {
  const bytes = new ArrayBuffer(16 * Math.ceil(uniforms.length / 4));
  const view = new DataView(bytes);
  uniforms.forEach((value, i) => {
    if ('u32' in value) view.setUint32(4 * i, value.u32 + runs * (value.step ?? 0), true);
    else view.setFloat32(4 * i, value.f32, true);
  });
  return bytes;
}
