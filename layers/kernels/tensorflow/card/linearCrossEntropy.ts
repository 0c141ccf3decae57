import {linearCrossEntropyOp} from '../../../ops/linearCrossEntropy.ts';
import {weightKernel} from '../device/opsKernel.ts';
import {DataType} from '../device/tensorflowBackend.ts';
import {asWords, type CardPlan, planWeight} from './cardWeights.ts';

/** `LinearCrossEntropy` (layers/ops/linearCrossEntropy.ts). Second output, if wanted: the gradient of `hidden`. */
export const linearCrossEntropy = weightKernel(
  linearCrossEntropyOp,
  (ops, {hidden, labels, ...tensors}, attrs) => {
    const {plan, numbers}: CardPlan = {plan: [], numbers: []};
    planWeight({plan, numbers}, attrs);
    const attributes = [
      ops.listAttribute('plan', 'int', plan),
      ops.listAttribute('numbers', 'float', numbers),
      ops.boolAttribute('wants_gradient', attrs.wantsGradient),
      ops.boolAttribute('of_each_row', attrs.ofEachRow),
    ];
    const given = [hidden, ops.cast(labels, DataType.float32)];
    const words = Object.values(tensors).map((tensor) => asWords(ops, tensor));
    const [loss, gradient] = ops.fused('LinearCrossEntropy', given, attributes, 2, words);
    return attrs.wantsGradient ? [loss, gradient] : [loss];
  },
  ({hidden: _hidden, labels: _labels, ...weight}) => weight,
);
