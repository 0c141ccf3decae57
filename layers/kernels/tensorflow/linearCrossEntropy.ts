import type * as tf from '@tensorflow/tfjs';
import {asWords, type CardPlan, planWeight} from './cardWeights.ts';
import {keepOnCard} from './keepOnCard.ts';
import {runOps} from './runOps.ts';
import {DataType, type TensorFlowBackend} from './tensorflowBackend.ts';
import type {WeightAttributes} from './weightRows.ts';

interface LinearCrossEntropyArgs {
  /** `hidden`, `labels`, and the tensors of the weight in the order of its storage. */
  inputs: Record<string, tf.TensorInfo>;
  attrs: WeightAttributes & {wantsGradient: boolean};
  backend: unknown;
}

/** `LinearCrossEntropy` (layers/ops/linearCrossEntropy.ts). Second output, where it is wanted: the gradient of `hidden`. */
export const linearCrossEntropy = {
  kernelName: 'LinearCrossEntropy',
  backendName: 'tensorflow',
  kernelFunc: (args: unknown) => {
    const {inputs, attrs, backend: anyBackend} = args as LinearCrossEntropyArgs;
    const backend = anyBackend as TensorFlowBackend;
    const {hidden: _hidden, labels: _labels, ...weight} = inputs;
    keepOnCard(backend, weight);
    return runOps(backend, inputs, (ops, {hidden, labels, ...tensors}) => {
      const {plan, numbers}: CardPlan = {plan: [], numbers: []};
      planWeight({plan, numbers}, attrs);
      const attributes = [
        ops.listAttribute('plan', 'int', plan),
        ops.listAttribute('numbers', 'float', numbers),
        ops.boolAttribute('wants_gradient', attrs.wantsGradient),
      ];
      const given = [hidden, ops.cast(labels, DataType.float32)];
      const words = Object.values(tensors).map((tensor) => asWords(ops, tensor));
      const [loss, gradient] = ops.fused('LinearCrossEntropy', given, attributes, 2, words);
      return attrs.wantsGradient ? [loss, gradient] : [loss];
    });
  },
} as const;
