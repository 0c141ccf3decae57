import * as tf from '@tensorflow/tfjs';
import {op, type Tensors} from '../../../ops/op.ts';
import {stockKernel} from '../../kernel.ts';
import {isPlain, runOps} from '../device/runOps.ts';

const reshapeOp = op<Tensors<'x'>, tf.ReshapeAttrs>(tf.Reshape);

/**
 * `Reshape` without making and freeing a shape tensor at every call, which takes much of the time of a model of small
 * weights.
 */
export const reshape = stockKernel(reshapeOp, 'tensorflow', ({inputs, attrs, backend}, stock) =>
  isPlain(inputs.x) ? runOps(backend, inputs, (ops, {x}) => [ops.reshape(x, attrs.shape)])[0] : stock(),
);
