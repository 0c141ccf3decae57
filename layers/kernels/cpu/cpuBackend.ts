import type * as tf from '@tensorflow/tfjs';

/** What these kernels use of TensorFlow.js's cpu backend. */
export interface CpuBackend extends tf.KernelBackend {
  data: {get(dataId: tf.DataId): {values: tf.BackendValues}};
  makeTensorInfo(shape: number[], dtype: tf.DataType, values: tf.BackendValues): tf.TensorInfo;
}
