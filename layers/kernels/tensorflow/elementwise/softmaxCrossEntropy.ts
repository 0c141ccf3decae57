import {softmaxCrossEntropyOp} from '../../../ops/softmaxCrossEntropy.ts';
import {opsKernel} from '../device/opsKernel.ts';
import {DataType} from '../device/tensorflowBackend.ts';

/**
 * `SoftmaxCrossEntropy` (layers/ops/softmaxCrossEntropy.ts), for which TensorFlow has one op with loss and gradient.
 */
export const softmaxCrossEntropy = opsKernel(
  softmaxCrossEntropyOp,
  (ops, {logits, labels}, {ignoreIndex}) => {
    const [rows, vocab] = logits.shape;
    if (rows === 0) {
      return [ops.constant([0], new Float32Array(0)), ops.constant([0, vocab], new Float32Array(0))];
    }
    const isCounted = ops.one('NotEqual', [labels, ops.integer(ignoreIndex)]);
    const counted = ops.cast(isCounted, DataType.float32); // [N]
    const target = ops.one('Maximum', [labels, ops.integer(0)]);
    const [losses, gradient] = ops.run('SparseSoftmaxCrossEntropyWithLogits', [logits, target], [], 2);
    return [ops.mul(losses, counted), ops.mul(gradient, ops.reshape(counted, [rows, 1]))];
  },
);
