import * as tf from '@tensorflow/tfjs';
import {TfjsLoraError} from '../../quant/errors.ts';
import {backendTraits} from './backendTraits.ts';
import {customGradient} from './customGradient.ts';
import {freeSpent} from './freeSpent.ts';
import {keepResults, replayResults} from './keptResults.ts';
import {engineState} from './tfjsInternals.ts';

/**
 * Runs `block` and keeps for backward only its inputs and the results of ops that request it (`keptResults`); backward
 * runs the block again: gradient checkpointing, Chen et al. 2016. Gradients equal the plain tape's; memory for a stack
 * of blocks falls to that of one block.
 *
 * @param block a differentiable function of `inputs` and `constants`, in that order, that leaves no tensor
 *   behind and returns the same result each time it runs
 * @param inputs tensors that get a gradient
 * @param options `variables`: trained variables that `block` reads, which get a gradient only if named here;
 *   `constants`: tensors that `block` needs and that get no gradient, such as masks and tables; `isOffloaded`: whether
 *   the inputs must wait in host memory
 * @throws TfjsLoraError `UNSUPPORTED` if they must and the backend computes on a graphics card, where reading them
 *   would wait
 */
export function gradientCheckpoint<T extends tf.Tensor>(
  block: (...tensors: tf.Tensor[]) => T,
  inputs: tf.Tensor[],
  {
    variables = [],
    constants = [],
    isOffloaded = false,
  }: {variables?: tf.Variable[]; constants?: tf.Tensor[]; isOffloaded?: boolean} = {},
): T {
  if (isOffloaded && !backendTraits().isOnHost) {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `gradientCheckpointing on ${tf.getBackend()}: expected true or false where blocks are not one op, got 'offload'. ` +
        'Set it to true, or train frozen 16-bit or quantized weights with LoRA without DoRA and dropout, on webgpu with ' +
        "computeDtype 'float16' or on an NVIDIA card in tensorflow with 'bfloat16'.",
    );
  }
  const given = [...inputs, ...constants];
  const kept: tf.Tensor[][] = [];
  try {
    return customGradient(
      [...inputs, ...variables],
      () => {
        const value = keepResults(kept, () => block(...given));
        return {value, saved: [...given, ...kept.flat()]};
      },
      (dy, saved) => {
        const rest = saved.slice(given.length);
        const again = kept.map(({length}) => rest.splice(0, length));
        const run = () => replayResults(again, () => block(...saved.slice(0, given.length)));
        return recompute(run, [...saved.slice(0, inputs.length), ...variables], dy);
      },
    );
  } finally {
    tf.dispose(kept.flat()); // backward keeps its own
  }
}

function recompute(block: () => tf.Tensor, sources: tf.Tensor[], dy: tf.Tensor): tf.Tensor[] {
  const state = engineState();
  const {activeTape, gradientDepth, kernelDepth} = state; // a gradient inside a gradient function would lose them
  state.kernelDepth = 0; // otherwise nothing is recorded
  state.gradientDepth = 0; // otherwise the inner tape's tensors are kept
  try {
    const run = () => {
      const y = block();
      freeSpent(dy);
      return y;
    };
    const {grads} = tf.engine().gradients(run, sources, dy, true);
    return grads.map((gradient, i) => gradient ?? tf.zerosLike(sources[i]));
  } finally {
    Object.assign(state, {activeTape, gradientDepth, kernelDepth});
  }
}
