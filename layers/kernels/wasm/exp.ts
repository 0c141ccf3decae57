import * as tf from '@tensorflow/tfjs';
import {op, type Tensors} from '../../ops/op.ts';
import {stockKernel} from '../kernel.ts';
import {gemmOf} from './native/gemm.ts';
import {offsetOf} from './wasmBackend.ts';

/**
 * `Exp`, four values at a time; the stock backend computes one. The stock kernel still runs types other than float32.
 */
export const exp = stockKernel(op<Tensors<'x'>>(tf.Exp), 'wasm', ({inputs: {x}, backend}, stock) => {
  if (x.dtype !== 'float32') return stock();
  const out = backend.makeOutput(x.shape, 'float32');
  const count = tf.util.sizeFromShape(x.shape);
  gemmOf(backend).exports.expAll(offsetOf(backend, x), offsetOf(backend, out), count);
  return out;
});
