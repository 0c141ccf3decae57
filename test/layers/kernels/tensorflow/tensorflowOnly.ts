import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import type {TensorFlowBackend} from '../../../../layers/kernels/tensorflow/device/tensorflowBackend.ts';
import {SETUP_FILE, type TensorFlowSetup} from '../../../../src/training/backends/tensorflowFolder.ts';
import {type BackendOptions, useBackend} from '../../../../src/training/backends/useBackend.ts';

/**
 * Runs `describe` on the `tensorflow` backend if `TFJS_LORA_TEST_BACKENDS` names it; otherwise it shows as skipped. If
 * fused ops are set up, it runs twice, with them and with only TensorFlow's own ops.
 */
export function describeTensorFlow(name: string, body: () => void): void {
  const isAsked = process.env.TFJS_LORA_TEST_BACKENDS?.split(',').includes('tensorflow');
  for (const fusedOps of isAsked && areFusedOpsSetUp() ? [true, false] : [false]) {
    (isAsked ? describe : describe.skip)(`${name} on tensorflow${fusedOps ? ', fused' : ''}`, () => {
      beforeAll(async () => {
        const {features} = await useBackend('tensorflow', {computeDtype: 'float32', fusedOps});
        expect(features).toContain(fusedOps ? 'fused ops' : 'fused ops off'); // it is a failure if they are set up but not loaded
      });
      body();
    });
  }
}

function areFusedOpsSetUp(): boolean {
  const path = join(__dirname, '../../../../node_modules/.tfjs-lora/tensorflow', SETUP_FILE);
  try {
    const {fusedOps} = JSON.parse(readFileSync(path, 'utf8')) as TensorFlowSetup;
    return fusedOps?.sources !== undefined;
  } catch {
    return false; // the user's own package
  }
}

/** Chooses the number type of products. */
export async function choose(computeDtype: BackendOptions['computeDtype']): Promise<void> {
  await useBackend('tensorflow', {computeDtype});
}

export const tensorflowBackend = () => tf.backend() as TensorFlowBackend;
