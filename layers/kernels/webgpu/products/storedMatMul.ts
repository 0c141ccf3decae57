import {storedMatMulOp} from '../../../ops/storedMatMul.ts';
import {kernel} from '../../kernel.ts';
import {rowPartsOf} from '../weights/rowParts.ts';
import {storedFormat} from '../weights/weightFormat.ts';
import {multiply} from './multiply.ts';

/** `StoredMatMul` (layers/ops/storedMatMul.ts): the weight is widened inside the product. */
export const storedMatMul = kernel(storedMatMulOp, 'webgpu', ({inputs, attrs, backend}) => {
  const {dtype, rows, cols, transposeWeight} = attrs;
  const weight = storedFormat(rowPartsOf(backend, inputs.weight), dtype, cols);
  return multiply(backend, {x: inputs.x, weight, rows, cols, transposeWeight});
});
