import type * as tf from '@tensorflow/tfjs';

/** The parts of TensorFlow.js's cpu backend that these kernels use. */
export interface CpuBackend extends tf.KernelBackend {
  data: {get(dataId: tf.DataId): {values: tf.BackendValues}};
  makeTensorInfo(shape: number[], dtype: tf.DataType, values: tf.BackendValues): tf.TensorInfo;
}
