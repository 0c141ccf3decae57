import type * as tf from '@tensorflow/tfjs';
import type {HalfDtype} from '../../../quant/float16.ts';
import {dequantize, type QuantizedAttributes} from './dequantize.ts';
import type {RowSource} from './multiply.ts';
import type {Ops} from './runOps.ts';
import {DataType, type Handle, type TensorFlowBackend} from './tensorflowBackend.ts';
import {halfRows} from './widen16.ts';

/** Attributes of a weight of 16 or fewer bits; see layers/ops/storedMatrix.ts. */
export type WeightAttributes = QuantizedAttributes | HalfAttributes;
/** Its tensors: `weight` of a 16-bit one, else those of its storage. */
export type WeightInputs = Record<string, tf.TensorInfo>;

interface HalfAttributes {
  dtype: HalfDtype;
  rows: number;
  cols: number;
}

/** A weight of 16 bits as it lies, a quantized one dequantized. */
export function weightRows(
  ops: Ops,
  backend: TensorFlowBackend,
  tensors: Record<string, Handle>,
  attributes: WeightAttributes,
): RowSource {
  const {rows, cols} = attributes;
  if (!isHalf(attributes)) {
    return {
      rows,
      cols,
      read: (begin, end) => dequantize(ops, backend, tensors, attributes, begin, end),
    };
  }
  const {weight} = tensors;
  return {
    rows,
    cols,
    dtype: DataType[attributes.dtype],
    read: (begin, end) => halfRows(ops, weight, attributes.dtype, cols, begin, end),
  };
}

function isHalf(attributes: WeightAttributes): attributes is HalfAttributes {
  return attributes.dtype === 'bfloat16' || attributes.dtype === 'float16';
}
