import type * as tf from '@tensorflow/tfjs';
import type {Op} from '../../../ops/op.ts';
import {type KernelResult, kernel} from '../../kernel.ts';
import {keepOnCard} from './keepOnCard.ts';
import {type Handles, type Ops, runOps} from './runOps.ts';
import type {Handle} from './tensorflowBackend.ts';

/** Declares a kernel made of TensorFlow's own ops; see {@link runOps}. */
export function opsKernel<Inputs extends object, Attributes extends object, Output>(
  op: Op<Inputs, Attributes, Output>,
  run: (ops: Ops, handles: Handles<Inputs>, attrs: Attributes) => KernelResult<Output, Handle>,
  packed?: (inputs: Inputs) => object,
): tf.KernelConfig {
  return kernel(op, 'tensorflow', ({inputs, attrs, backend}) => {
    if (packed) keepOnCard(backend, packed(inputs));
    let isList = false;
    const outputs = runOps(backend, inputs, (ops, handles) => {
      const made: Handle | Handle[] = run(ops, handles, attrs);
      isList = Array.isArray(made);
      return [made].flat();
    });
    return (isList ? outputs : outputs[0]) as KernelResult<Output>;
  });
}

/** Declares an {@link opsKernel} that reads a packed weight, whose int32 tensors stay on a card. */
export function weightKernel<Inputs extends object, Attributes extends object, Output>(
  op: Op<Inputs, Attributes, Output>,
  run: (ops: Ops, handles: Handles<Inputs>, attrs: Attributes) => KernelResult<Output, Handle>,
  packed: (inputs: Inputs) => object = (inputs) => inputs,
): tf.KernelConfig {
  return opsKernel(op, run, packed);
}
