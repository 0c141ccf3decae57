import type * as tf from '@tensorflow/tfjs';
import {keptFor} from '../../keptFor.ts';
import {attach} from '../device/attachments.ts';
import {hostMemoryOf} from '../device/hostMemory.ts';
import {isDryRun} from '../device/runShader.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';
import type {PackedTensors} from '../products/packRows.ts';

const hostedBy = keptFor((_: WebGPUBackend) => new WeakMap<tf.DataId, HostedInputs>());

/** The inputs of a stack's blocks in host memory. */
export class HostedInputs {
  /** Stands for them on the tape. When it is freed before backward, so are they. */
  readonly tensor: tf.TensorInfo;
  private readonly kept = new Map<number, GPUBuffer>();
  private isInUse = false;

  constructor(private readonly backend: WebGPUBackend) {
    this.tensor = backend.makeTensorInfo([0], 'int32');
    hostedBy(backend).set(this.tensor.dataId, this);
    attach(backend, this.tensor, {free: () => this.isInUse || this.free()});
  }

  /** Moves the next block's input, which is freed on the card. A run without dispatches has nothing to move. */
  add({halves, scales}: PackedTensors): void {
    if (!isDryRun(this.backend.device))
      this.kept.set(this.kept.size, hostMemoryOf(this.backend).keep([halves, scales]));
    for (const {dataId} of [halves, scales]) this.backend.disposeData(dataId);
  }

  /** Keeps them after their tensor is freed, until the caller frees them. */
  use(): this {
    this.isInUse = true;
    return this;
  }

  /** Copies a block's input back to the card, and frees it in host memory. */
  async restore(block: number, {halves, scales}: PackedTensors): Promise<void> {
    const kept = this.kept.get(block) as GPUBuffer;
    this.kept.delete(block);
    await hostMemoryOf(this.backend).restore(kept, [halves, scales]);
  }

  /** Frees those that are not restored. */
  free(): void {
    for (const kept of this.kept.values()) hostMemoryOf(this.backend).free(kept);
    this.kept.clear();
  }
}

/** Returns the inputs that a stack's forward pass kept in host memory, if it did. */
export function hostedIn(backend: WebGPUBackend, saved: tf.TensorInfo[]): HostedInputs | undefined {
  return saved.length === 1 ? hostedBy(backend).get(saved[0].dataId) : undefined;
}
