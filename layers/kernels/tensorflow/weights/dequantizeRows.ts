import {dequantizeRowsOp} from '../../../ops/dequantizeRows.ts';
import {weightKernel} from '../device/opsKernel.ts';
import {dequantize} from './dequantize.ts';

/** `DequantizeRows` (layers/ops/dequantizeRows.ts). */
export const dequantizeRows = weightKernel(dequantizeRowsOp, (ops, tensors, attrs) =>
  dequantize(ops, tensors, attrs, attrs.begin, attrs.end),
);
