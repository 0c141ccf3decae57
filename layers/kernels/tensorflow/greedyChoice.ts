import type * as tf from '@tensorflow/tfjs';
import {runOps} from './runOps.ts';
import type {TensorFlowBackend} from './tensorflowBackend.ts';

interface GreedyChoiceArgs {
  inputs: {logits: tf.TensorInfo};
  backend: unknown;
}

/** `GreedyChoice` (layers/ops/greedyChoice.ts), on a card. The places are exact in float32, which a card gives at once. */
export const greedyChoice = {
  kernelName: 'GreedyChoice',
  backendName: 'tensorflow',
  kernelFunc: (args: unknown) => {
    const {inputs, backend} = args as GreedyChoiceArgs;
    return runOps(backend as TensorFlowBackend, inputs, (ops, {logits}) => [
      ops.one('TfjsLoraGreedyChoice', [logits]),
    ])[0];
  },
} as const;
