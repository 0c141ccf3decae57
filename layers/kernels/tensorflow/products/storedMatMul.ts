import {quantizedMatMulOp} from '../../../ops/quantizedMatMul.ts';
import {storedMatMulOp} from '../../../ops/storedMatMul.ts';
import {weightKernel} from '../device/opsKernel.ts';
import {multiply} from './multiply.ts';
import {weightRows} from './weightRows.ts';

/**
 * `StoredMatMul` (layers/ops/storedMatMul.ts): a bfloat16 weight is multiplied as it is if products are in bfloat16.
 */
export const storedMatMul = weightKernel(storedMatMulOp, (ops, {x, ...tensors}, attrs) =>
  multiply(ops, x, weightRows(ops, tensors, attrs), attrs.transposeWeight),
);

/** `QuantizedMatMul` (layers/ops/quantizedMatMul.ts): each tile is dequantized before its product. */
export const quantizedMatMul = weightKernel(quantizedMatMulOp, (ops, {x, ...tensors}, attrs) =>
  multiply(ops, x, weightRows(ops, tensors, attrs), attrs.transposeWeight),
);
