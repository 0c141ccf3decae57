import * as tf from '@tensorflow/tfjs';
import type {TensorFlowBackend} from '../../../../layers/kernels/tensorflow/tensorflowBackend.ts';
import {type BackendOptions, useBackend} from '../../../../src/backends/useBackend.ts';

/** `describe` on the `tensorflow` backend, when `TFJS_LORA_TEST_BACKENDS` names it; else skipped, in sight. */
export function describeTensorFlow(name: string, body: () => void): void {
  const isAsked = process.env.TFJS_LORA_TEST_BACKENDS?.split(',').includes('tensorflow');
  (isAsked ? describe : describe.skip)(`${name} on tensorflow`, () => {
    beforeAll(() => choose('float32'));
    body();
  });
}

/** Chooses what products are computed in. */
export async function choose(computeDtype: BackendOptions['computeDtype']): Promise<void> {
  await useBackend('tensorflow', {computeDtype});
}

export const tensorflowBackend = () => tf.backend() as TensorFlowBackend;
