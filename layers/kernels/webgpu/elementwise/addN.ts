import type * as tf from '@tensorflow/tfjs';
import {numbered} from '../device/shader.ts';
import {holdsFloat32, type WebGPUBackend} from '../device/webgpuBackend.ts';
import {elementwise, runElementwise} from './elementwise.ts';

/** How many tensors one dispatch adds: with its output, what the weakest device binds. */
const AT_ONCE = 7;

/** By how many tensors they add. */
const sums = Array.from({length: AT_ONCE + 1}, (_, count) => {
  const inputs = Object.keys(numbered('x', count, String));
  const body = `y[i] = ${inputs.map((name) => `${name}[i]`).join(' + ')};`;
  return elementwise({name: 'AddN', outputs: ['y'], inputs, body});
});

interface AddNArgs {
  inputs: tf.TensorInfo[];
  backend: unknown;
}

/** Float32 `AddN`. The stock kernel binds all inputs at once, which many devices refuse beyond seven, and its
 * dispatch costs more. */
export function addN(stock: tf.KernelFunc): tf.KernelConfig {
  return {
    kernelName: 'AddN',
    backendName: 'webgpu',
    kernelFunc: (args) => {
      const {inputs, backend: anyBackend} = args as unknown as AddNArgs;
      const backend = anyBackend as WebGPUBackend;
      if (inputs.length === 1 || !inputs.every((input) => holdsFloat32(backend, input))) return stock(args);
      let sum = inputs[0];
      for (let i = 1; i < inputs.length; i += AT_ONCE - 1) {
        const terms = [sum, ...inputs.slice(i, i + AT_ONCE - 1)];
        const named = numbered('x', terms.length, (j) => terms[j]);
        const [next] = runElementwise(backend, sums[terms.length], named);
        if (i > 1) backend.disposeData(sum.dataId);
        sum = next;
      }
      return sum;
    },
  };
}
