import type * as tf from '@tensorflow/tfjs';
import {keptFor} from '../../keptFor.ts';
import {attach, detach} from '../device/attachments.ts';
import {moveBuffer} from '../device/moveBuffer.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';

/** Computations that have not ended. */
const running = keptFor((_: WebGPUBackend) => new Set<Promise<unknown>>());

const REFUSAL =
  "gradientCheckpointing 'offload' on webgpu: expected gradients to be read, or used after they are settled, got an op that " +
  'uses them immediately. Train with trainOnBatch or fitDataset, or set it to true.';

/**
 * Returns tensors that an asynchronous computation fills later. Until then, they can only be read, which waits.
 *
 * @param shapes of the results
 * @param compute returns the results, float32
 */
export function laterGradients(
  backend: WebGPUBackend,
  shapes: number[][],
  compute: () => Promise<tf.TensorInfo[]>,
): tf.TensorInfo[] {
  const outputs = shapes.map((shape) => backend.makeTensorInfo(shape, 'float32'));
  for (const {dataId} of outputs) backend.incRef(dataId); // also if the caller frees them earlier
  const filled = compute().then((results) => {
    for (const [i, output] of outputs.entries()) {
      detach(backend, output);
      moveBuffer(backend, results[i], output);
      backend.disposeData(results[i].dataId);
    }
  });
  for (const output of outputs) {
    const read = () => filled.then(() => backend.read(output.dataId) as Promise<tf.TypedArray>);
    attach(backend, output, {refusal: REFUSAL, read});
  }
  const settled = filled.finally(() => {
    running(backend).delete(settled);
    for (const {dataId} of outputs) backend.disposeData(dataId);
  });
  settled.catch(() => {}); // reported to who waits for it
  running(backend).add(settled);
  return outputs;
}

/** Waits for all of {@link laterGradients}. */
export async function settleGradients(backend: WebGPUBackend): Promise<void> {
  await Promise.all(running(backend));
}
