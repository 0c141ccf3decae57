import * as tf from '@tensorflow/tfjs';
import {readTimestamps} from '../../layers/kernels/webgpu/device/readTimestamps.ts';
import {submitRecorded, type WebGPUBackend} from '../../layers/kernels/webgpu/device/webgpuBackend.ts';

/** Number of dispatches that one query set measures. */
const CAPACITY = 2048;

/**
 * Measures GPU time by kernel while `run` runs. It uses timestamp queries, with each dispatch in a separate pass. The
 * gaps between passes make the sum a little longer than an unmeasured run.
 */
export async function kernelTimes(
  run: () => Promise<unknown>,
): Promise<{kernel: string; count: number; milliseconds: number}[]> {
  const backend = tf.backend() as unknown as WebGPUBackend;
  const {device} = backend;
  const before = tf.env().getNumber('WEBGPU_DEFERRED_SUBMIT_BATCH_SIZE');
  const createCommandEncoder = device.createCommandEncoder;
  const sets: {set: GPUQuerySet; labels: string[]}[] = [];
  const nextSlot = () => {
    let last = sets.at(-1);
    if (!last || last.labels.length === CAPACITY) {
      last = {set: device.createQuerySet({type: 'timestamp', count: 2 * CAPACITY}), labels: []};
      sets.push(last);
    }
    last.labels.push('');
    return {...last, at: last.labels.length - 1};
  };
  const labels = new WeakMap<GPUComputePipeline, string>();
  const createComputePipeline = device.createComputePipeline;
  await backend.queue.onSubmittedWorkDone();
  submitRecorded(backend);
  tf.env().set('WEBGPU_DEFERRED_SUBMIT_BATCH_SIZE', 1);
  device.createComputePipeline = (descriptor) => {
    const pipeline = createComputePipeline.call(device, descriptor);
    labels.set(pipeline, descriptor.label ?? '');
    return pipeline;
  };
  device.createCommandEncoder = (descriptor) => {
    const encoder = createCommandEncoder.call(device, descriptor);
    const begin = encoder.beginComputePass;
    encoder.beginComputePass = (passDescriptor) => {
      const {set, labels: names, at} = nextSlot();
      const timestampWrites = {
        querySet: set,
        beginningOfPassWriteIndex: 2 * at,
        endOfPassWriteIndex: 2 * at + 1,
      };
      const pass = begin.call(encoder, {...passDescriptor, timestampWrites});
      const setPipeline = pass.setPipeline;
      pass.setPipeline = (pipeline) => {
        names[at] = labels.get(pipeline) || pipeline.label || 'unnamed';
        setPipeline.call(pass, pipeline);
      };
      return pass;
    };
    return encoder;
  };
  try {
    await run();
  } finally {
    device.createCommandEncoder = createCommandEncoder;
    device.createComputePipeline = createComputePipeline;
    tf.env().set('WEBGPU_DEFERRED_SUBMIT_BATCH_SIZE', before);
  }
  const totals = new Map<string, {count: number; milliseconds: number}>();
  for (const {set, labels: names} of sets) {
    const times = await readTimestamps(device, set, 2 * names.length);
    for (const [i, name] of names.entries()) {
      const total = totals.get(name) ?? {count: 0, milliseconds: 0};
      total.count++;
      total.milliseconds += Number(times[2 * i + 1] - times[2 * i]) / 1e6;
      totals.set(name, total);
    }
    set.destroy();
  }
  return [...totals]
    .map(([kernel, total]) => ({kernel, ...total}))
    .sort((a, b) => b.milliseconds - a.milliseconds);
}
