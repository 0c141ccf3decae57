import * as tf from '@tensorflow/tfjs';
import {registerCpuKernels} from '../../../../layers/kernels/cpu/registerCpuKernels.ts';

export interface DeviceOptions {
  /** Capacity in bytes; a tensor beyond it throws, as on a full device. */
  limitBytes?: number;
  /** Whether reads are only asynchronous and `dataSync` throws, as on a graphics card in Node. */
  isAsynchronous?: boolean;
}

interface CpuBackend extends tf.KernelBackend {
  data: {has(dataId: object): boolean};
  write(values: tf.BackendValues, shape: number[], dtype: tf.DataType): tf.DataId;
}

/** A device of limited memory that computes like the `cpu` backend and counts all buffers made and freed. */
export class DeviceBackend {
  limitBytes: number;
  /** Bytes in use now, including intermediate results of kernels. */
  bytes = 0;
  /** Highest number of bytes so far; reset it to measure again. */
  peakBytes = 0;
  /** Number of running downloads. */
  reading = 0;

  /** Registers it with the `cpu` backend's kernels and makes it current. */
  static async use(
    name: string,
    {limitBytes = Number.POSITIVE_INFINITY, isAsynchronous}: DeviceOptions = {},
  ) {
    const device = new DeviceBackend(limitBytes);
    registerCpuKernels();
    tf.registerBackend(name, () => device.wrap(tf.findBackendFactory('cpu')() as CpuBackend, isAsynchronous));
    tf.copyRegisteredKernels('cpu', name);
    await tf.setBackend(name);
    return device;
  }

  private constructor(limitBytes: number) {
    this.limitBytes = limitBytes;
  }

  private wrap(backend: CpuBackend, isAsynchronous = false): tf.KernelBackend {
    const sizes = new Map<object, number>();
    const {write, disposeData, readSync} = backend;
    backend.write = (values, shape, dtype) => {
      const size = tf.util.sizeFromShape(shape) * tf.util.bytesPerElement(dtype);
      if (this.bytes + size > this.limitBytes) {
        throw new Error(`device: out of memory, ${this.bytes} bytes in use, ${size} more requested`);
      }
      this.bytes += size;
      this.peakBytes = Math.max(this.peakBytes, this.bytes);
      const dataId = write.call(backend, values, shape, dtype) as object;
      sizes.set(dataId, size);
      return dataId;
    };
    backend.disposeData = (dataId: object, force?: boolean) => {
      const isFreed = disposeData.call(backend, dataId, force);
      if (!backend.data.has(dataId)) {
        this.bytes -= sizes.get(dataId) ?? 0;
        sizes.delete(dataId);
      }
      return isFreed;
    };
    if (!isAsynchronous) return backend;
    backend.readSync = () => {
      throw new Error('device: no synchronous reads');
    };
    backend.read = async (dataId: object) => {
      this.reading++;
      await new Promise(setImmediate);
      this.reading--;
      if (!backend.data.has(dataId)) throw new Error('device: freed while it was read');
      return readSync.call(backend, dataId);
    };
    return backend;
  }
}
