import type * as tf from '@tensorflow/tfjs';
import type {
  TensorFlowBackend,
  TensorFlowBinding,
} from '../../../layers/kernels/tensorflow/device/tensorflowBackend.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';

/** Number of handles that the addon numbers before it starts over. */
const HANDLES = 2 ** 32;
/** Number of handles left when a run is stopped: more than one op makes, too few to matter. */
const RESERVE = 2 ** 20;

const GUARDED = Symbol.for('tfjs-lora.tensorflow.guarded');

/**
 * Keeps long runs correct. The addon numbers all handles in the life of a process with 32 bits. From 2³¹ on the numbers
 * are negative, and the stock backend does not free negative ones, so memory fills up. After 2³² the numbers are
 * reused, and an op could get a tensor that still has the same number. This function therefore frees negative handles,
 * and ends the run with an error before numbers are reused. Calling it again is harmless.
 */
export function guardHandles(backend: TensorFlowBackend & {[GUARDED]?: boolean}): void {
  if (backend[GUARDED]) return;
  backend[GUARDED] = true;
  const {binding, tensorMap} = backend;
  const checked = (id: number): number => {
    if (id >>> 0 < HANDLES - RESERVE) return id;
    throw new TfjsLoraError(
      'DEVICE_LOST',
      'tensorflow: expected fewer than 2³² tensors in the life of a process, got that many. ' +
        'Save and continue in a new process: a run with checkpoints resumes where it stopped.',
    );
  };
  const executeOp: TensorFlowBinding['executeOp'] = (name, attributes, inputs, outputCount) => {
    const outputs = binding.executeOp(name, attributes, inputs, outputCount);
    if (outputs.length > 0) checked(outputs[outputs.length - 1].id);
    return outputs;
  };
  const createTensor: TensorFlowBinding['createTensor'] = (shape, dtype, values) =>
    checked(binding.createTensor(shape, dtype, values));
  // The addon's own properties are read-only.
  backend.binding = Object.create(binding, {
    executeOp: {value: executeOp},
    createTensor: {value: createTensor},
  });
  const disposeData = backend.disposeData.bind(backend);
  backend.disposeData = (dataId: tf.DataId, force?: boolean): boolean => {
    const record = tensorMap.has(dataId) ? tensorMap.get(dataId) : undefined;
    const isGone = disposeData(dataId, force);
    if (isGone && record && record.values === null && record.id < 0) backend.binding.deleteTensor(record.id);
    return isGone;
  };
}
