import * as tf from '@tensorflow/tfjs';
import {gemmOf, type WorkerConstructor} from '../../layers/kernels/wasm/gemm/gemm.ts';
import {registerWasmKernels} from '../../layers/kernels/wasm/registerWasmKernels.ts';
import type {WasmBackend} from '../../layers/kernels/wasm/wasmBackend.ts';
import {TfjsLoraError} from '../../quant/errors.ts';
import type {Backend, BackendOptions} from './backend.ts';
import {isNode, nodeModule, processor} from './processor.ts';
import {withWasmThreads} from './wasmThreads.ts';

/** WebAssembly with SIMD and, in Node, threads. */
export const wasm: Backend = {
  name: 'wasm',
  async start(options) {
    const {model, cores} = await processor();
    const asked = checkedThreads(options);
    const package_ = await loadPackage();
    if (!('wasm' in tf.engine().registry)) {
      await startFirst(asked ?? cores, package_);
    } else {
      const running = package_.getThreadsCount();
      if (asked !== undefined && asked !== running) {
        throw new TfjsLoraError(
          'UNSUPPORTED',
          `useBackend wasm threads: expected ${running}, which this process started with, got ${asked}. ` +
            'Choose the number of threads in the first call.',
        );
      }
    }
    registerWasmKernels();
    if (!(await tf.setBackend('wasm'))) throw unavailable('it did not start');
    const simd = await tf.env().getAsync('WASM_HAS_SIMD_SUPPORT');
    const threads = package_.getThreadsCount();
    return {device: model, features: [...(simd ? ['simd'] : []), `${threads} thread${threads === 1 ? '' : 's'}`]};
  },
};

function checkedThreads({threads}: BackendOptions): number | undefined {
  if (threads !== undefined && !(Number.isInteger(threads) && threads >= 1)) {
    throw new TfjsLoraError('INVALID_ARGUMENT', `useBackend threads: expected an integer ≥ 1, got ${threads}.`);
  }
  return threads;
}

async function loadPackage(): Promise<typeof import('@tensorflow/tfjs-backend-wasm')> {
  try {
    return await import('@tensorflow/tfjs-backend-wasm');
  } catch (error) {
    throw unavailable(`@tensorflow/tfjs-backend-wasm does not load (${(error as Error).message})`, error);
  }
}

/** Starts the backend for the first time in this process, which fixes its number of threads. */
async function startFirst(
  threads: number,
  package_: typeof import('@tensorflow/tfjs-backend-wasm'),
): Promise<void> {
  package_.setThreadsCount(threads);
  try {
    if (!isNode()) {
      await tf.setBackend('wasm');
      return;
    }
    await withWasmThreads(threads, () => tf.setBackend('wasm'));
    const {Worker} = await nodeModule<{Worker: WorkerConstructor}>('worker_threads');
    gemmOf(tf.backend() as WasmBackend).startThreads(threads, Worker);
  } catch (error) {
    throw unavailable((error as Error).message, error);
  }
}

function unavailable(got: string, cause?: unknown): TfjsLoraError {
  return new TfjsLoraError('BACKEND_UNAVAILABLE', `useBackend wasm: expected WebAssembly, got: ${got}.`, {cause});
}
