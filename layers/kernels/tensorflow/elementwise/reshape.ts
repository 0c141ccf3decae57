import * as tf from '@tensorflow/tfjs';
import {op, type Tensors} from '../../../ops/op.ts';
import {stockKernel} from '../../kernel.ts';
import {isPlain, runOps} from '../device/runOps.ts';

const reshapeOp = op<Tensors<'x'>, tf.ReshapeAttrs>(tf.Reshape);

/** `Reshape` without a tensor of the shape made and freed at every call: a model of small weights waits for little else. */
export const reshape = stockKernel(reshapeOp, 'tensorflow', ({inputs, attrs, backend}, stock) =>
  isPlain(inputs.x) ? runOps(backend, inputs, (ops, {x}) => [ops.reshape(x, attrs.shape)])[0] : stock(),
);
