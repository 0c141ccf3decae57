import type * as tf from '@tensorflow/tfjs';
import {readTimestamps} from './readTimestamps.ts';
import {compileAside, runShader, type ShaderCall} from './runShader.ts';
import {submitRecorded, type WebGPUBackend} from './webgpuBackend.ts';

/** Number of runs of each shader; the first does not count. */
const ROUNDS = 5;

/**
 * Runs each shader a few times, taking turns, and returns its shortest time in milliseconds; infinite if it does not
 * compile. The shaders write to buffers of their own, which also replace tensors that were disposed.
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

/** Returns which of them compile. The errors of the others do not matter. */
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

/**
 * More than a card's cache. So many bytes are written between runs, so that each run finds its operands in memory, as
 * in a step.
 */
const FLUSHED_BYTES = 256 * 2 ** 20;

/** Measures each shader with the device's own clock, in a pass of its own. */
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
