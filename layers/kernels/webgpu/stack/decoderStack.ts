import type * as tf from '@tensorflow/tfjs';
import {decoderStackGradOp, decoderStackOp} from '../../../ops/decoderStack.ts';
import {kernel} from '../../kernel.ts';
import {StackPass} from './stackPass.ts';

/**
 * `DecoderStack` (layers/ops/decoderStack.ts) in float16: sums, and the hidden states to which blocks add, are float32;
 * everything else between two shaders is float16. The outputs after the value are what the blocks keep for backward.
 */
export const decoderStack = kernel(decoderStackOp, 'webgpu', ({inputs, attrs, backend}) => {
  const {x, ...tables} = inputs;
  return new StackPass(backend, attrs.stack, x.shape, tables).forward(x, attrs);
});

/** Gradients of `x`, if it is trained, and of each A and B in turn. */
export const decoderStackGrad = kernel(decoderStackGradOp, 'webgpu', ({inputs, attrs, backend}) => {
  const {dy, cos, sin, segments} = inputs;
  const saved: tf.TensorInfo[] = [];
  for (let i = 0; `saved${i}` in inputs; i++) saved.push(inputs[`saved${i}`]);
  const pass = new StackPass(backend, attrs.stack, dy.shape, {cos, sin, segments});
  return pass.backward(dy, saved, attrs);
});
