import type * as tf from '@tensorflow/tfjs';
import {keptFor} from '../../keptFor.ts';
import {BufferPool} from './bufferPool.ts';
import {recordingOf} from './commandRecording.ts';
import {submitRecorded, type WebGPUBackend} from './webgpuBackend.ts';

/** Number of buffers through which values return to the card: one is filled while the card copies from the other. */
const UPLOADS = 2;

/** A buffer that the host fills, and when it may. */
interface Upload {
  buffer: GPUBuffer;
  isMapped: Promise<unknown>;
}

/** Moves tensors between the card and mapped buffers, which are in host memory. */
export class HostMemory {
  private readonly pool: BufferPool;
  private readonly uploads: Upload[] = [];

  constructor(private readonly backend: WebGPUBackend) {
    this.pool = new BufferPool(backend.device, () => submitRecorded(backend));
  }

  /** Number of bytes that are kept for tensors. */
  get bytesKept(): number {
    return this.pool.numBytesUsed;
  }

  /** Records copies of tensors, which may be freed right after, into one buffer. */
  keep(tensors: tf.TensorInfo[]): GPUBuffer {
    const {backend, pool} = this;
    const usage = GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST;
    const kept = pool.acquireBuffer(bytesOf(tensors), usage);
    const recording = recordingOf(backend);
    if (recording) recording.isWhole = false; // a replay cannot wait for the host
    const encoder = copying(backend);
    let at = 0;
    for (const tensor of tensors) {
      const size = bytesOf([tensor]);
      encoder.copyBufferToBuffer(bufferOf(backend, tensor), 0, kept, at, size);
      at += size;
    }
    return kept;
  }

  /** Copies what {@link keep} returned back into tensors of the same sizes, and frees it. */
  async restore(kept: GPUBuffer, tensors: tf.TensorInfo[]): Promise<void> {
    const {backend} = this;
    submitRecorded(backend); // the copies into it
    const upload = this.nextUpload(kept.size);
    try {
      await Promise.all([kept.mapAsync(GPUMapMode.READ), upload.isMapped]);
      new Uint8Array(upload.buffer.getMappedRange()).set(new Uint8Array(kept.getMappedRange()));
    } finally {
      this.free(kept);
    }
    upload.buffer.unmap();
    const encoder = copying(backend);
    let at = 0;
    for (const tensor of tensors) {
      const size = bytesOf([tensor]);
      if (!backend.tensorMap.get(tensor.dataId).resource) backend.uploadToGPU(tensor.dataId);
      encoder.copyBufferToBuffer(upload.buffer, at, bufferOf(backend, tensor), 0, size);
      at += size;
    }
    submitRecorded(backend);
    upload.isMapped = upload.buffer.mapAsync(GPUMapMode.WRITE);
    upload.isMapped.catch(() => {}); // reported to who waits for it
  }

  /** Frees what {@link keep} returned. */
  free(kept: GPUBuffer): void {
    kept.unmap();
    this.pool.releaseBuffer(kept);
  }

  /** Returns the buffer that has been in use for longest, or a new one. */
  private nextUpload(size: number): Upload {
    const {uploads} = this;
    const oldest = uploads.length === UPLOADS ? uploads.shift() : undefined;
    if (oldest && oldest.buffer.size !== size) oldest.buffer.destroy();
    const isFitting = oldest?.buffer.size === size;
    const upload = isFitting ? (oldest as Upload) : this.newUpload(size);
    uploads.push(upload);
    return upload;
  }

  private newUpload(size: number): Upload {
    const usage = GPUBufferUsage.MAP_WRITE | GPUBufferUsage.COPY_SRC;
    const buffer = this.backend.device.createBuffer({size, usage, mappedAtCreation: true});
    return {buffer, isMapped: Promise.resolve()};
  }
}

/** Returns the host memory of a backend, which keeps its buffers for the next step. */
export const hostMemoryOf = keptFor((backend: WebGPUBackend) => new HostMemory(backend));

const bytesOf = (tensors: tf.TensorInfo[]): number =>
  4 * tensors.reduce((sum, {shape}) => sum + shape.reduce((product, side) => product * side, 1), 0);

const bufferOf = ({tensorMap}: WebGPUBackend, {dataId}: tf.TensorInfo): GPUBuffer =>
  tensorMap.get(dataId).resource as GPUBuffer;

/** Returns the encoder of the backend's commands, outside a pass. */
function copying(backend: WebGPUBackend): GPUCommandEncoder {
  backend.ensureCommandEncoderReady();
  backend.endComputePassEncoder();
  return backend.commandEncoder as GPUCommandEncoder;
}
