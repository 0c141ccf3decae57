import type * as tf from '@tensorflow/tfjs';
import {readTimestamps} from './readTimestamps.ts';
import {compileAside, runShader, type ShaderCall} from './runShader.ts';
import {submitRecorded, type WebGPUBackend} from './webgpuBackend.ts';

/** Runs of each shader; the first is not counted. */
const ROUNDS = 5;

/**
 * The shortest of a few runs of each shader, in milliseconds, in turn; infinite where one does not compile. They write to
 * buffers of their own, and read such ones in place of tensors that are gone.
 */
export async function measureShaders(backend: WebGPUBackend, calls: ShaderCall[]): Promise<number[]> {
  const compiled = await compileAll(backend, calls);
  const held = new Map<tf.DataId, tf.TensorInfo>();
  const hold = (tensor: tf.TensorInfo, isRead: boolean): tf.TensorInfo => {
    const known = held.get(tensor.dataId);
    if (known) return known;
    const isThere = isRead && backend.refCount(tensor.dataId) > 0;
    if (isThere) backend.incRef(tensor.dataId);
    const standIn = isThere ? tensor : backend.makeTensorInfo(tensor.shape, tensor.dtype);
    backend.uploadToGPU(standIn.dataId);
    held.set(tensor.dataId, standIn);
    return standIn;
  };
  const runs = calls.map((call) => ({
    ...call,
    buffers: Object.fromEntries(
      call.shader.buffers.map((name) => [
        name,
        hold(call.buffers[name] as tf.TensorInfo, !call.shader.outputs.includes(name)),
      ]),
    ),
  }));
  const times = calls.map(() => Number.POSITIVE_INFINITY);
  const places = [...calls.keys()].filter((place) => compiled[place]);
  const time = backend.device.features.has('timestamp-query') ? timeOnDevice : timeByClock;
  try {
    for (let round = 0; round < ROUNDS; round++) {
      const taken = await time(
        backend,
        places.map((place) => runs[place]),
      );
      if (round === 0) continue;
      for (const [i, place] of places.entries()) times[place] = Math.min(times[place], taken[i]);
    }
  } finally {
    for (const {dataId} of held.values()) backend.disposeData(dataId);
  }
  return times;
}

/** Which of them compile. What one that does not says of itself is nobody's concern. */
async function compileAll({device}: WebGPUBackend, calls: ShaderCall[]): Promise<boolean[]> {
  device.pushErrorScope('validation');
  const pending = calls.map(({shader}) =>
    compileAside(device, shader).then(
      () => true,
      () => false,
    ),
  );
  await device.popErrorScope();
  return Promise.all(pending);
}

async function timeByClock(backend: WebGPUBackend, calls: ShaderCall[]): Promise<number[]> {
  const times: number[] = [];
  for (const call of calls) {
    const begun = performance.now();
    runShader(backend, call);
    submitRecorded(backend); // unless a full batch was submitted already
    await backend.queue.onSubmittedWorkDone();
    times.push(performance.now() - begun);
  }
  return times;
}

/** More than a card's cache: what is written between runs, so that each finds its operands in memory, as in a step. */
const FLUSHED_BYTES = 256 * 2 ** 20;

/** By the device's own clock, each in a pass of its own. */
async function timeOnDevice(backend: WebGPUBackend, calls: ShaderCall[]): Promise<number[]> {
  const {device} = backend;
  const querySet = device.createQuerySet({type: 'timestamp', count: 2 * calls.length});
  const flushed = device.createBuffer({
    size: Math.min(FLUSHED_BYTES, device.limits.maxBufferSize),
    usage: GPUBufferUsage.COPY_DST,
  });
  try {
    for (const [i, call] of calls.entries()) {
      const timestampWrites = {querySet, beginningOfPassWriteIndex: 2 * i, endOfPassWriteIndex: 2 * i + 1};
      backend.endComputePassEncoder();
      encoderOf(backend).clearBuffer(flushed);
      backend.computePassEncoder = encoderOf(backend).beginComputePass({timestampWrites});
      runShader(backend, call);
      backend.endComputePassEncoder();
    }
    submitRecorded(backend);
    const times = await readTimestamps(device, querySet, 2 * calls.length);
    return calls.map((_, i) => Number(times[2 * i + 1] - times[2 * i]) / 1e6);
  } finally {
    for (const made of [querySet, flushed]) made.destroy();
  }
}

function encoderOf(backend: WebGPUBackend): GPUCommandEncoder {
  backend.ensureCommandEncoderReady();
  return backend.commandEncoder as GPUCommandEncoder;
}
