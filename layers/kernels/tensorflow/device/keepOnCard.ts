import type * as tf from '@tensorflow/tfjs';
import {DataType, type TensorEntry, type TensorFlowBackend} from './tensorflowBackend.ts';

const moved = new WeakSet<TensorEntry>();

/**
 * Moves packed weights to the card permanently. TensorFlow keeps int32 in host memory, and the first op that reads it
 * on the card leaves a second copy there; this drops the first copy. Ops on such a weight begin with a bitcast, because
 * most ops that take int32 would fetch it back. On the CPU it does nothing.
 *
 * @param tensors tensors of which those of int32 are moved, once
 */
export function keepOnCard(backend: TensorFlowBackend, tensors: object): void {
  if (!backend.isUsingGpuDevice) return;
  const {binding, tensorMap} = backend;
  for (const info of Object.values(tensors) as tf.TensorInfo[]) {
    if (info.dtype !== 'int32') continue;
    const record = tensorMap.get(info.dataId);
    if (moved.has(record)) continue;
    moved.add(record);
    const [packed] = backend.getInputTensorIds([info]);
    const cast = (id: number, value: number) =>
      binding.executeOp('Bitcast', [{name: 'type', type: binding.TF_ATTR_TYPE, value}], [id], 1)[0].id;
    const floats = cast(packed, DataType.float32);
    record.id = cast(floats, DataType.int32); // the memory of `floats`, on the card
    for (const id of [packed, floats]) binding.deleteTensor(id);
  }
}
