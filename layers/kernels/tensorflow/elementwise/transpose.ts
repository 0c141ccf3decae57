import * as tf from '@tensorflow/tfjs';
import {op, type Tensors} from '../../../ops/op.ts';
import {stockKernel} from '../../kernel.ts';
import {isPlain, runOps} from '../device/runOps.ts';

const transposeOp = op<Tensors<'x'>, tf.TransposeAttrs>(tf.Transpose);

/** `Transpose` without making and freeing a tensor of the axes' order at every call. */
export const transpose = stockKernel(transposeOp, 'tensorflow', ({inputs, attrs, backend}, stock) =>
  isPlain(inputs.x)
    ? runOps(backend, inputs, (ops, {x}) => [ops.one('Transpose', [x, ops.integers(attrs.perm)])])[0]
    : stock(),
);
