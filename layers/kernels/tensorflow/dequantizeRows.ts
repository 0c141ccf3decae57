import {dequantizeRowsOp} from '../../ops/dequantizeRows.ts';
import {dequantize} from './dequantize.ts';
import {weightKernel} from './opsKernel.ts';

/** `DequantizeRows` (layers/ops/dequantizeRows.ts). */
export const dequantizeRows = weightKernel(dequantizeRowsOp, (ops, tensors, attrs) =>
  dequantize(ops, tensors, attrs, attrs.begin, attrs.end),
);
