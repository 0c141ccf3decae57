import {quantizedMatMulOp} from '../../../ops/quantizedMatMul.ts';
import {kernel} from '../../kernel.ts';
import {usingWeight} from '../weights/usingWeight.ts';
import {multiply} from './multiply.ts';

/** `QuantizedMatMul` (layers/ops/quantizedMatMul.ts). */
export const quantizedMatMul = kernel(quantizedMatMulOp, 'webgpu', ({inputs, attrs, backend}) => {
  const {x} = inputs;
  const use = {rowCount: x.shape[0], transposeWeight: attrs.transposeWeight};
  return usingWeight(backend, inputs, attrs, use, (multiplier) => multiply(backend, {x, ...multiplier}));
});
