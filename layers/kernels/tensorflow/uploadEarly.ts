import type * as tf from '@tensorflow/tfjs';
import {keepOnCard} from './keepOnCard.ts';
import type {TensorFlowBackend} from './tensorflowBackend.ts';

interface UploadEarlyArgs {
  inputs: {tensor: tf.TensorInfo};
  backend: unknown;
}

/** `UploadEarly` (layers/ops/uploadEarly.ts): TensorFlow brings a tensor to the card when its handle is made, int32 when it is read. */
export const uploadEarly = {
  kernelName: 'UploadEarly',
  backendName: 'tensorflow',
  kernelFunc: (args: unknown) => {
    const {inputs, backend: anyBackend} = args as UploadEarlyArgs;
    const backend = anyBackend as TensorFlowBackend;
    backend.getInputTensorIds([inputs.tensor]);
    keepOnCard(backend, inputs);
    return [];
  },
} as const;
