import * as tf from '@tensorflow/tfjs';
import {guardAllocation} from '../../../layers/kernels/wasm/guardAllocation.ts';
import {gemmOf, hasRelaxedSimd, type WorkerConstructor} from '../../../layers/kernels/wasm/native/gemm.ts';
import {registerWasmKernels} from '../../../layers/kernels/wasm/registerWasmKernels.ts';
import type {WasmBackend} from '../../../layers/kernels/wasm/wasmBackend.ts';
import {counted} from '../../../quant/counted.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import type {Backend, BackendOptions} from './backend.ts';
import {isNode, nodeModule, processor} from './processor.ts';
import {withoutNewListeners, withWasmThreads} from './wasmThreads.ts';

/** What usually keeps the backend from starting in a browser. TensorFlow.js prints the cause. */
const NO_FILES =
  'a backend that did not start. Serve node_modules/@tensorflow/tfjs-backend-wasm/dist/*.wasm, and name their place: ' +
  "useBackend('auto', {wasmPaths: '/wasm/'})";

/** WebAssembly with SIMD and, in Node, threads. */
export const wasm: Backend = {
  name: 'wasm',
  async start(options) {
    const {model, cores} = await processor();
    const asked = checkedThreads(options);
    const package_ = await loadPackage();
    if (!('wasm' in tf.engine().registry)) {
      if (options.wasmPaths !== undefined) package_.setWasmPaths(options.wasmPaths);
      await startFirst(asked ?? cores, options.stockThreads ?? 1, package_);
    } else {
      const running = gemmOf(tf.findBackend('wasm') as WasmBackend).threads;
      if (asked !== undefined && asked !== running) {
        throw new TfjsLoraError(
          'UNSUPPORTED',
          `useBackend wasm threads: expected ${running}, which this process started with, got ${asked}. ` +
            'Choose the number of threads in the first call.',
        );
      }
    }
    registerWasmKernels();
    if (!(await tf.setBackend('wasm'))) throw unavailable(isNode() ? 'it did not start' : NO_FILES);
    guardAllocation(tf.backend() as WasmBackend);
    const simd = await tf.env().getAsync('WASM_HAS_SIMD_SUPPORT');
    const {threads, isFused} = gemmOf(tf.backend() as WasmBackend);
    const features = [
      ...(simd ? ['simd'] : []),
      ...(isFused ? ['fused multiply-add'] : []),
      counted(threads, 'thread'),
    ];
    return {device: model, features, computeDtype: 'float32'};
  },
};

function checkedThreads({threads}: BackendOptions): number | undefined {
  if (threads !== undefined && !(Number.isInteger(threads) && threads >= 1)) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `useBackend threads: expected a positive integer, got ${threads}.`,
    );
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
  stockThreads: number,
  package_: typeof import('@tensorflow/tfjs-backend-wasm'),
): Promise<void> {
  package_.setThreadsCount(stockThreads);
  try {
    if (!isNode()) {
      await tf.setBackend('wasm');
      return;
    }
    if (!hasRelaxedSimd() && process.versions.node.startsWith('20.')) {
      // Node 20 has it behind a flag, which V8 checks whenever it compiles a module.
      const v8 = await nodeModule<typeof import('node:v8')>('v8');
      v8.setFlagsFromString('--experimental-wasm-relaxed-simd');
    }
    const start = () => tf.setBackend('wasm');
    const started = await (threads > 1 ? withWasmThreads(stockThreads, start) : withoutNewListeners(start));
    if (started && threads > 1) {
      const {Worker} = await nodeModule<{Worker: WorkerConstructor}>('worker_threads');
      gemmOf(tf.backend() as WasmBackend).startThreads(threads, Worker);
    }
  } catch (error) {
    throw unavailable((error as Error).message, error);
  }
}

function unavailable(got: string, cause?: unknown): TfjsLoraError {
  return new TfjsLoraError('BACKEND_UNAVAILABLE', `backend wasm: expected WebAssembly, got: ${got}.`, {
    cause,
  });
}
