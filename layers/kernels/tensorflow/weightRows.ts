import type {HalfFormat, StoredFormat} from '../../ops/storedMatrix.ts';
import {dequantize} from './dequantize.ts';
import type {RowSource} from './multiply.ts';
import type {Ops} from './runOps.ts';
import {DataType, type Handle} from './tensorflowBackend.ts';
import {halfRows} from './widen16.ts';

/** A weight of 16 bits as it lies, a quantized one dequantized. */
export function weightRows(ops: Ops, tensors: Record<string, Handle>, attributes: StoredFormat): RowSource {
  const {rows, cols} = attributes;
  if (!isHalf(attributes)) {
    return {
      rows,
      cols,
      read: (begin, end) => dequantize(ops, tensors, attributes, begin, end),
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

function isHalf(attributes: StoredFormat): attributes is HalfFormat {
  return attributes.dtype === 'bfloat16' || attributes.dtype === 'float16';
}
