import * as tf from '@tensorflow/tfjs';
import {op, type Tensors} from '../../../ops/op.ts';
import {stockKernel} from '../../kernel.ts';
import {holdsFloat32} from '../device/webgpuBackend.ts';
import {elementwise, runElementwise} from './elementwise.ts';

const addOp = op<Tensors<'a' | 'b'>>(tf.Add);

const sum = elementwise({name: 'Add', outputs: ['y'], inputs: ['a', 'b'], body: 'y[i] = a[i] + b[i];'});

/** `Add` of float32 tensors of one shape, as in residual paths: its dispatch costs less than the stock kernel's. */
export const add = stockKernel(addOp, 'webgpu', ({inputs: {a, b}, backend}, stock) => {
  const isSame = tf.util.arraysEqual(a.shape, b.shape) && tf.util.sizeFromShape(a.shape) > 0;
  if (!isSame || !holdsFloat32(backend, a) || !holdsFloat32(backend, b)) return stock();
  return runElementwise(backend, sum, {a, b})[0];
});
