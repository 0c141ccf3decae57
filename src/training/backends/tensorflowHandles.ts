import type * as tf from '@tensorflow/tfjs';
import type {
  TensorFlowBackend,
  TensorFlowBinding,
} from '../../../layers/kernels/tensorflow/device/tensorflowBackend.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';

/** How many handles the addon numbers before it begins anew. */
const HANDLES = 2 ** 32;
/** How many are left when a run is stopped: more than one op makes, fewer than matter. */
const RESERVE = 2 ** 20;

const GUARDED = Symbol.for('tfjs-lora.tensorflow.guarded');

/**
 * Keeps long runs right. The addon numbers every handle it ever makes with 32 bits. From 2³¹ on the numbers are negative, and
 * the stock backend frees no negative one: memory fills. After 2³² they are given a second time, and an op would get the
 * tensor that has the number still. So negative ones are freed here, and before the second round an error ends the run.
 * Calling this again is harmless.
 */
export function guardHandles(backend: TensorFlowBackend & {[GUARDED]?: boolean}): void {
  if (backend[GUARDED]) return;
  backend[GUARDED] = true;
  const {binding, tensorMap} = backend;
  const checked = (id: number): number => {
    if (id >>> 0 < HANDLES - RESERVE) return id;
    throw new TfjsLoraError(
      'DEVICE_LOST',
      'tensorflow: expected fewer than 2³² tensors in the life of a process, got as many. Save, and continue in a new process: ' +
        'a run with checkpoints resumes where it stopped.',
    );
  };
  const executeOp: TensorFlowBinding['executeOp'] = (name, attributes, inputs, outputCount) => {
    const outputs = binding.executeOp(name, attributes, inputs, outputCount);
    if (outputs.length > 0) checked(outputs[outputs.length - 1].id);
    return outputs;
  };
  const createTensor: TensorFlowBinding['createTensor'] = (shape, dtype, values) =>
    checked(binding.createTensor(shape, dtype, values));
  // The addon's own properties cannot be written.
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
