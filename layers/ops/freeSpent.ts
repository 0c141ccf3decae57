import * as tf from '@tensorflow/tfjs';
import {engineState} from './tfjsInternals.ts';

const spentTensors = new WeakSet<tf.Tensor>();

/**
 * Whether nothing reads a tensor after the gradient function that gets it, which may overwrite it: the gradient of an
 * op's output, or what the op had kept.
 */
export const isSpent = (given: tf.Tensor): boolean => spentTensors.has(given);

/**
 * Lets backward free, op by op, the tensors that it will not read again: the gradient of an op's output and what the op
 * had kept. Otherwise TensorFlow.js holds all of them until backward ends, which doubles the memory of the activations.
 *
 * Call it at the end of the function that is differentiated, when all its ops are recorded. That function must not be
 * differentiated with respect to anything that it computes itself.
 *
 * @param given the gradient that backward starts with, if the caller still needs it
 */
export function freeSpent(given?: tf.Tensor): void {
  const {activeTape} = engineState();
  const handedOn = new WeakSet<tf.Tensor>();
  let freeLast = () => {};
  for (const node of activeTape ?? []) {
    const {gradient, saved = []} = node;
    if (!gradient) continue;
    node.gradient = (dys) => {
      freeLast(); // all gradients of that op exist by now
      const spent = new Set(dys.filter((dy) => dy != null && dy !== given));
      for (const tensor of [...spent, ...saved]) spentTensors.add(tensor);
      freeLast = () => tf.dispose([...spent, ...saved]);
      const owned = (dx: tf.Tensor) => {
        spent.delete(dx); // passed through unchanged
        if (handedOn.has(dx)) return dx.clone(); // one gradient of two inputs
        handedOn.add(dx);
        return dx;
      };
      return Object.fromEntries(
        Object.entries(gradient(dys)).map(([name, make]) => [name, () => owned(make())]),
      );
    };
  }
}
