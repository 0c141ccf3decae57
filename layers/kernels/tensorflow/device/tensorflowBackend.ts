import type * as tf from '@tensorflow/tfjs';
import {keptFor} from '../../keptFor.ts';

/** Numbers of TensorFlow's types, from `TF_DataType` of its C API. */
export const DataType = {
  float32: 1,
  int32: 3,
  uint8: 4,
  int8: 6,
  int64: 9,
  bool: 10,
  bfloat16: 14,
  uint16: 17,
  float16: 19,
} as const;

/** An attribute of a TensorFlow op, as the addon takes it. */
export interface OpAttribute {
  name: string;
  type: number;
  value: boolean | number | number[] | string;
}

/** An op's output: a handle, which only `deleteTensor` may free. */
export interface Handle {
  id: number;
  shape: number[];
  /** One of {@link DataType}. */
  dtype: number;
}

/** The addon of tfjs-node. */
export interface TensorFlowBinding {
  readonly TF_Version: string;
  readonly TF_ATTR_INT: number;
  readonly TF_ATTR_FLOAT: number;
  readonly TF_ATTR_BOOL: number;
  readonly TF_ATTR_TYPE: number;
  /** Makes a tensor that uses the array's memory instead of copying it. */
  createTensor(shape: number[], dtype: number, values: Float32Array | Int32Array | Uint8Array): number;
  deleteTensor(id: number): void;
  executeOp(name: string, attributes: OpAttribute[], inputs: number[], outputCount: number): Handle[];
  getNumOfTensors(): number;
}

/** The backend's entry for a tensor. */
export interface TensorEntry {
  shape: number[];
  dtype: number;
  /** −1 until `values` are passed to TensorFlow. */
  id: number;
  values: tf.BackendValues | null;
  refCount: number;
}

/** The parts of tfjs-node's backend that these kernels use. */
export interface TensorFlowBackend extends tf.KernelBackend {
  binding: TensorFlowBinding;
  readonly isUsingGpuDevice: boolean;
  tensorMap: {
    get(dataId: tf.DataId): TensorEntry;
    set(dataId: tf.DataId, record: TensorEntry): void;
    has(dataId: tf.DataId): boolean;
    delete(dataId: tf.DataId): void;
  };
  getInputTensorIds(tensors: tf.TensorInfo[]): number[];
  getNumOfTFTensors(): number;
}

/** How frozen weights of 16 and fewer bits are multiplied. */
export interface Products {
  /** The type that both operands are rounded to. */
  operands: 'float32' | 'bfloat16';
  /** Whether rounded operands are multiplied as they are; otherwise they are widened again, and summed in float32. */
  isNative: boolean;
}

/** Returns how many elements of a weight are widened at a time: 64 MiB of float32, on a card 256. */
export const tileElementsOf = ({isUsingGpuDevice}: TensorFlowBackend): number =>
  isUsingGpuDevice ? 1 << 26 : 1 << 24;

/** How kernels compute on a backend. Changes of these settings take effect. */
export interface KernelSettings {
  /** Whether fused ops of both kinds below were last requested. */
  wantsFusedOps?: boolean;
  /** Whether the CPU ops of `native/` may run: one instead of a dozen of TensorFlow's. Default false. */
  hasFusedOps: boolean;
  /** Whether the ops of `native/cuda/` may run on a graphics card. Default false. */
  hasCardOps: boolean;
  /** How products are computed. Default in float32. */
  products: Products;
}

export const settingsOf = keptFor(
  (_: TensorFlowBackend): KernelSettings => ({
    hasFusedOps: false,
    hasCardOps: false,
    products: {operands: 'float32', isNative: true},
  }),
);
