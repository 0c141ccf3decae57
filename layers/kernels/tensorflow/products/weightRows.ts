import type {HalfFormat, StoredFormat} from '../../../ops/storedMatrix.ts';
import type {Ops} from '../device/runOps.ts';
import {DataType, type Handle} from '../device/tensorflowBackend.ts';
import {dequantize} from '../weights/dequantize.ts';
import {halfRows} from '../weights/widen16.ts';
import type {RowSource} from './multiply.ts';

/** Reads rows of a weight: of 16 bits as they are, of a quantized one dequantized. */
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
