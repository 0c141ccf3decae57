import type * as tf from '@tensorflow/tfjs';
import {TfjsLoraError} from '../../../../quant/errors.ts';
import {keptFor} from '../../keptFor.ts';
import type {WebGPUBackend} from './webgpuBackend.ts';

/** What a tensor holds besides a buffer, or instead of one. */
export interface Attachment {
  /** Frees it. Called when the tensor is freed. */
  free?(): void;
  /** Reads the tensor's values. Default: those in its buffer. */
  read?(): Promise<tf.TypedArray>;
  /** Message of the error for ops that need the tensor's buffer. By default, the tensor has one. */
  refusal?: string;
}

const attachments = keptFor((_: WebGPUBackend) => new WeakMap<tf.DataId, Attachment>());

/** Attaches something to a tensor, in place of what was attached before. */
export function attach(backend: WebGPUBackend, {dataId}: tf.TensorInfo, attachment: Attachment): void {
  attachments(backend).set(dataId, attachment);
}

/** Removes what is attached to a tensor, which is not freed. */
export function detach(backend: WebGPUBackend, {dataId}: tf.TensorInfo): void {
  attachments(backend).delete(dataId);
}

/** Makes a backend respect attachments. */
export function supportAttachments(backend: WebGPUBackend): void {
  const {read, disposeData, uploadToGPU} = backend;
  const all = attachments(backend);
  Object.assign(backend, {
    read(dataId: tf.DataId) {
      // The copy must be recorded at once: what runs next may write to the buffer.
      return all.get(dataId)?.read?.() ?? read.call(backend, dataId);
    },
    disposeData(dataId: tf.DataId, force?: boolean) {
      const isFreed = disposeData.call(backend, dataId, force);
      if (isFreed) {
        all.get(dataId)?.free?.();
        all.delete(dataId);
      }
      return isFreed;
    },
    uploadToGPU(dataId: tf.DataId) {
      const refusal = all.get(dataId)?.refusal;
      if (refusal) throw new TfjsLoraError('UNSUPPORTED', refusal);
      uploadToGPU.call(backend, dataId);
    },
  });
}
