import {quantizedMatMulOp} from '../../../ops/quantizedMatMul.ts';
import {kernel} from '../../kernel.ts';
import {usingQuantized} from '../weights/usingWeight.ts';
import {multiply} from './multiply.ts';

/** `QuantizedMatMul` (layers/ops/quantizedMatMul.ts). */
export const quantizedMatMul = kernel(quantizedMatMulOp, 'webgpu', ({inputs, attrs, backend}) => {
  const {rows, cols, transposeWeight} = attrs;
  const {x} = inputs;
  return usingQuantized(backend, inputs, attrs, x.shape[0], (weight) =>
    multiply(backend, {x, weight, rows, cols, transposeWeight}),
  );
});
