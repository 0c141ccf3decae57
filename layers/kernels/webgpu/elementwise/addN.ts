import * as tf from '@tensorflow/tfjs';
import {op} from '../../../ops/op.ts';
import {stockKernel} from '../../kernel.ts';
import {numbered} from '../device/shader.ts';
import {holdsFloat32} from '../device/webgpuBackend.ts';
import {elementwise, runElementwise} from './elementwise.ts';

/** How many tensors one dispatch adds: with its output, as many as the weakest device binds. */
const AT_ONCE = 7;

/** Shaders by the number of tensors they add. */
const sums = Array.from({length: AT_ONCE + 1}, (_, count) => {
  const inputs = Object.keys(numbered('x', count, String));
  const body = `y[i] = ${inputs.map((name) => `${name}[i]`).join(' + ')};`;
  return elementwise({name: 'AddN', outputs: ['y'], inputs, body});
});

const addNOp = op<tf.TensorInfo[]>(tf.AddN);

/**
 * Float32 `AddN`. The stock kernel binds all inputs in one dispatch, which many devices refuse beyond seven, and its
 * dispatch costs more.
 */
export const addN = stockKernel(addNOp, 'webgpu', ({inputs, backend}, stock) => {
  if (inputs.length === 1 || !inputs.every((input) => holdsFloat32(backend, input))) return stock();
  let sum = inputs[0];
  for (let i = 1; i < inputs.length; i += AT_ONCE - 1) {
    const terms = [sum, ...inputs.slice(i, i + AT_ONCE - 1)];
    const [next] = runElementwise(
      backend,
      sums[terms.length],
      numbered('x', terms.length, (j) => terms[j]),
    );
    if (i > 1) backend.disposeData(sum.dataId);
    sum = next;
  }
  return sum;
});
