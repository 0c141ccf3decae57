import type * as tf from '@tensorflow/tfjs';
import {keptFor} from '../../keptFor.ts';

/** Numbers of TensorFlow's types, `TF_DataType` of its C API. */
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

/** What an op gives: a handle, to be freed by `deleteTensor` and by nothing else. */
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
  /** Keeps the array's memory instead of copying it. */
  createTensor(shape: number[], dtype: number, values: Float32Array | Int32Array | Uint8Array): number;
  deleteTensor(id: number): void;
  executeOp(name: string, attributes: OpAttribute[], inputs: number[], outputCount: number): Handle[];
  getNumOfTensors(): number;
}

/** A tensor as the backend keeps it. */
export interface TensorEntry {
  shape: number[];
  dtype: number;
  /** −1 while `values` wait to be handed to TensorFlow. */
  id: number;
  values: tf.BackendValues | null;
  refCount: number;
}

/** What these kernels use of the backend of tfjs-node. */
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
  /** What both operands are rounded to. */
  operands: 'float32' | 'bfloat16';
  /** Whether rounded operands are multiplied as they are; else they are widened again, and summed in float32. */
  isNative: boolean;
}

/** How many elements of a weight are widened at once: 64 MiB of float32, on a card 256. */
export const tileElementsOf = ({isUsingGpuDevice}: TensorFlowBackend): number =>
  isUsingGpuDevice ? 1 << 26 : 1 << 24;

/** How kernels compute on a backend; what is written to it counts. */
export interface KernelSettings {
  /** What was last asked for: both kinds of ops below. */
  wantsFusedOps?: boolean;
  /** Whether the ops of `native/` may be run, on a processor: one for what is else a dozen of TensorFlow's. Default false. */
  hasFusedOps: boolean;
  /** Whether the ops of `native/cuda/` may be run, on a graphics card. Default false. */
  hasCardOps: boolean;
  /** Default float32. */
  products: Products;
}

export const settingsOf = keptFor(
  (_: TensorFlowBackend): KernelSettings => ({
    hasFusedOps: false,
    hasCardOps: false,
    products: {operands: 'float32', isNative: true},
  }),
);
