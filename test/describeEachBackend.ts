import * as tf from '@tensorflow/tfjs';
import type {BackendName} from '../src/training/backends/useBackend.ts';
import {useBackend} from '../src/training/backends/useBackend.ts';

/** Backends that tests run on: those named in `TFJS_LORA_TEST_BACKENDS` (comma separated). Default: cpu and wasm. */
const BACKENDS = (process.env.TFJS_LORA_TEST_BACKENDS?.split(',') ?? ['cpu', 'wasm']) as BackendName[];

/**
 * Calls `describe` once per backend, with that backend made current by {@link useBackend} before the first test.
 *
 * @param name name of the subject; the block reads `name on cpu`, `name on wasm`
 * @param body registers the tests; it is called before any backend runs, so it must create no tensors itself
 */
export function describeEachBackend(name: string, body: (backend: BackendName) => void): void {
  for (const backend of BACKENDS) describeBackend(backend, describe, name, body);
}

/**
 * Does what {@link describeEachBackend} does, but skips `cpu`. This is for tests in which many ops run that have tests
 * of their own on every backend: plain JavaScript takes four to twenty times as long.
 */
export function describeFastBackends(name: string, body: (backend: BackendName) => void): void {
  for (const backend of BACKENDS)
    describeBackend(backend, backend === 'cpu' ? describe.skip : describe, name, body);
}

function describeBackend(
  backend: BackendName,
  describe: jest.Describe,
  name: string,
  body: (backend: BackendName) => void,
): void {
  describe(`${name} on ${backend}`, () => {
    beforeAll(async () => {
      await useBackend(backend);
    });
    body(backend);
  });
}

/**
 * Expects that `run` leaves no tensor and no buffer behind, besides the tensors it returns, which are disposed here.
 * It runs once before counting: something made on first use and kept (a cached table) is not a leak.
 * Nothing is tidied around it, so an inner tensor that is not disposed shows. A promise must be awaited by the caller.
 */
export function expectNoLeak(run: () => Promise<unknown>): Promise<void>;
export function expectNoLeak(run: () => unknown): void;
export function expectNoLeak(run: () => unknown): void | Promise<void> {
  const first = run();
  if (first instanceof Promise) {
    return (async () => {
      tf.dispose((await first) as tf.TensorContainer);
      const before = memory();
      tf.dispose((await run()) as tf.TensorContainer);
      expectSameMemory(before);
    })();
  }
  tf.dispose(first as tf.TensorContainer);
  const before = memory();
  tf.dispose(run() as tf.TensorContainer);
  expectSameMemory(before);
}

function expectSameMemory(before: ReturnType<typeof memory>): void {
  expect(memory()).toEqual(before);
}

/**
 * Counts tensors and buffers of the engine, and the handles of a backend with its own count, which the engine lacks.
 */
function memory(): {numTensors: number; numDataBuffers: number; handles: number} {
  const {numTensors, numDataBuffers} = tf.memory();
  const backend = tf.backend() as tf.KernelBackend & {getNumOfTFTensors?: () => number};
  return {numTensors, numDataBuffers, handles: backend.getNumOfTFTensors?.() ?? 0};
}
