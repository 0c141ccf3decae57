import type * as tf from '@tensorflow/tfjs';
import {keptFor} from '../../keptFor.ts';
import {attach} from '../device/attachments.ts';
import {hostMemoryOf} from '../device/hostMemory.ts';
import {isDryRun} from '../device/runShader.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';

/** What a block keeps, and its buffer in host memory. */
interface Hosted {
  tensors: Pick<tf.TensorInfo, 'shape' | 'dtype'>[];
  kept?: GPUBuffer;
}

const hostedBy = keptFor((_: WebGPUBackend) => new WeakMap<tf.DataId, HostedInputs>());

/** What a stack's blocks keep for backward, in host memory. */
export class HostedInputs {
  /** Stands for it on the tape. When it is freed before backward, so is all that is kept. */
  readonly tensor: tf.TensorInfo;
  private readonly blocks: Hosted[] = [];
  private isInUse = false;

  constructor(private readonly backend: WebGPUBackend) {
    this.tensor = backend.makeTensorInfo([0], 'int32');
    hostedBy(backend).set(this.tensor.dataId, this);
    attach(backend, this.tensor, {free: () => this.isInUse || this.free()});
  }

  /** Moves what the next block keeps, and frees it on the card. A run without dispatches has nothing to move. */
  add(tensors: tf.TensorInfo[]): void {
    const {backend} = this;
    const kept = isDryRun(backend.device) ? undefined : hostMemoryOf(backend).keep(tensors);
    this.blocks.push({tensors: tensors.map(({shape, dtype}) => ({shape, dtype})), kept});
    for (const {dataId} of tensors) backend.disposeData(dataId);
  }

  /** Keeps it after its tensor is freed, until the caller frees it. */
  use(): this {
    this.isInUse = true;
    return this;
  }

  /** Makes tensors for what a block keeps. */
  tensorsOf(block: number): tf.TensorInfo[] {
    return this.blocks[block].tensors.map(({shape, dtype}) => this.backend.makeTensorInfo(shape, dtype));
  }

  /** Copies what a block keeps back to the card, into new tensors, and frees it in host memory. */
  async restored(block: number): Promise<tf.TensorInfo[]> {
    const {kept} = this.blocks[block];
    this.blocks[block].kept = undefined;
    const tensors = this.tensorsOf(block);
    try {
      await hostMemoryOf(this.backend).restore(kept as GPUBuffer, tensors);
    } catch (error) {
      for (const {dataId} of tensors) this.backend.disposeData(dataId);
      throw error;
    }
    return tensors;
  }

  /** Frees what is not restored. */
  free(): void {
    for (const hosted of this.blocks) {
      if (hosted.kept) hostMemoryOf(this.backend).free(hosted.kept);
      hosted.kept = undefined;
    }
  }
}

/** Returns what a stack's forward pass kept in host memory, if it did. */
export function hostedIn(backend: WebGPUBackend, saved: tf.TensorInfo[]): HostedInputs | undefined {
  return saved.length === 1 ? hostedBy(backend).get(saved[0].dataId) : undefined;
}
