import * as tf from '@tensorflow/tfjs';
import {nodeModule} from './processor.ts';

const SCRIPT = '@tensorflow/tfjs-backend-wasm/wasm-out/tfjs-backend-wasm-threaded-simd.js';

/** Maximum number of threads that the backend uses; its pool has no more workers. */
const MAX_THREADS = 8;

/**
 * Runs `start`, which starts the wasm backend, such that its threads work in Node.
 *
 * The backend was built for browsers: it disables threads in Node, makes its workers from `blob:` URLs, which Node's
 * workers do not accept, counts only every second core, and always starts eight workers. So while it starts, it sees
 * twice the threads as cores, and a `Worker` that reads the blob itself and runs only if it will be used.
 *
 * @param threads number of threads, including the calling one
 */
export async function withWasmThreads<T>(threads: number, start: () => Promise<T>): Promise<T> {
  const workerThreads = await nodeModule<typeof import('node:worker_threads')>('worker_threads');
  const os = await nodeModule<typeof import('node:os')>('os');
  const {resolveObjectURL} = await nodeModule<typeof import('node:buffer')>('buffer');
  const {createRequire} = await nodeModule<typeof import('node:module')>('module');
  // The blob of the main script that the backend offers was cut from a bundle and cannot run on its own.
  const script = createRequire(import.meta.url).resolve(SCRIPT);
  const {Worker} = workerThreads;
  const {cpus} = os;
  const globalWorker = Object.getOwnPropertyDescriptor(globalThis, 'Worker');
  const count = Math.min(threads, MAX_THREADS);
  const pool: PooledWorker[] = [];

  const startWorker = async (pooled: PooledWorker, message: LoadMessage) => {
    // Backend threads are taken from the end of the pool; the others only have to report that they are ready.
    await Promise.resolve();
    if (pool.indexOf(pooled) < pool.length - (count - 1)) return pooled.emit('message', {cmd: 'loaded'});
    const bootstrap = (await (resolveObjectURL(pooled.url) as Blob).text()) as string;
    const worker = new Worker(bootstrap, {eval: true});
    worker.on('message', (data) => pooled.emit('message', data));
    worker.on('error', (error) => pooled.emit('error', error));
    worker.once('message', () => worker.unref()); // once loaded, a thread must not keep the process alive
    worker.postMessage({...message, urlOrBlob: script});
    pooled.worker = worker;
  };

  class PooledWorker {
    worker?: import('node:worker_threads').Worker;
    private readonly listeners = new Map<string, (data: unknown) => void>();
    constructor(readonly url: string) {
      pool.push(this);
    }
    on(event: string, listener: (data: unknown) => void): this {
      this.listeners.set(event, listener);
      return this;
    }
    emit(event: string, data: unknown): void {
      this.listeners.get(event)?.(data);
    }
    postMessage(message: LoadMessage | {cmd: string}): void {
      if (message.cmd === 'load') void startWorker(this, message as LoadMessage);
      else this.worker?.postMessage(message);
    }
    terminate(): void {
      void this.worker?.terminate();
    }
    ref(): void {}
    unref(): void {}
  }

  tf.env().set('WASM_HAS_MULTITHREAD_SUPPORT', true);
  workerThreads.Worker = PooledWorker as unknown as typeof Worker;
  os.cpus = () => Array.from({length: 2 * count}, () => cpus()[0]);
  try {
    return await withoutNewListeners(start);
  } finally {
    workerThreads.Worker = Worker;
    os.cpus = cpus;
    if (globalWorker) Object.defineProperty(globalThis, 'Worker', globalWorker);
    else delete (globalThis as {Worker?: unknown}).Worker;
  }
}

interface LoadMessage {
  cmd: 'load';
  urlOrBlob: unknown;
}

/** Removes the process-wide listeners that the backend adds, which would turn any rejection into a crash. */
export async function withoutNewListeners<T>(run: () => Promise<T>): Promise<T> {
  const events = ['uncaughtException', 'unhandledRejection'] as const;
  const before = events.map((event) => process.listeners(event as 'uncaughtException'));
  try {
    return await run();
  } finally {
    events.forEach((event, i) => {
      for (const listener of process.listeners(event as 'uncaughtException')) {
        if (!before[i].includes(listener)) process.removeListener(event, listener);
      }
    });
  }
}
