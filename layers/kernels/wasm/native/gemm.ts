import {memoryOf, type WasmBackend} from '../wasmBackend.ts';
import {nativeBinary} from './nativeBinary.ts';
import {relaxedBinary} from './relaxedBinary.ts';

/** How a matrix's elements are stored, as gemm.c numbers them. */
export const ELEMENT_TYPES = {float32: 0, bfloat16: 1, float16: 2} as const;

/** An operand: where it begins, and the distances between its rows, columns and batches in elements. */
export interface Operand {
  /** Where it begins, in bytes. */
  offset: number;
  row: number;
  col: number;
  batch: number;
}

/** `C = A · B`, `batch` times: A is `[m, k]` float32, B is `[k, n]` of `bType`, C is `[m, n]` float32 without gaps. */
export interface Product {
  m: number;
  n: number;
  k: number;
  batch: number;
  a: Operand;
  b: Operand;
  bType: number;
  /** Where C begins, in bytes. */
  c: number;
  /** Address of the description of a quantized B, as {@link writeQuantized} makes it; `b.offset` is then unused. */
  quantized?: number;
}

interface Exports {
  scratchFloats(): number;
  work(job: number, scratch: number): number;
  widen(source: number, target: number, rows: number, cols: number, stride: number, type: number): void;
  dequantize(quantized: number, target: number, begin: number, end: number): void;
  addRows(source: number, ids: number, target: number, rows: number, cols: number, targetRows: number): void;
  copyRows(
    source: number,
    ids: number,
    target: number,
    outer: number,
    rows: number,
    words: number,
    count: number,
  ): number;
  sumMiddle(source: number, target: number, outer: number, rows: number, inner: number): void;
  expAll(source: number, target: number, count: number): void;
}

/** The constructor of a thread, as in Node. */
export type WorkerConstructor = new (
  source: string,
  options: {eval: true; workerData: unknown},
) => {
  unref(): void;
  terminate(): unknown;
  on(event: 'error', listener: (error: Error) => void): unknown;
};

// Words of the job in gemm.c that threads share, followed by the count of jobs, which wakes them.
const JOB_WORDS = 32;
const REMAINING = 18;
const DONE = 19;
const QUANTIZED = 20;
const GENERATION = 24;

/** Below this many multiplications, waking other threads costs more than they save. */
const WORTH_SHARING = 1 << 20;
const SMALLEST_TILE = 1 << 18;
const MAX_TILE_COLS = 512;

const WORKER_SOURCE = `
const {module, memory, job, scratch} = require('node:worker_threads').workerData;
const {work} = new WebAssembly.Instance(module, {env: {memory}}).exports;
const words = new Int32Array(memory.buffer, job, ${JOB_WORDS});
for (let seen = 0; ; ) {
  Atomics.wait(words, ${GENERATION}, seen);
  seen = Atomics.load(words, ${GENERATION});
  if (work(job, scratch) > 0) Atomics.notify(words, ${DONE});
}`;

/**
 * Matrix products in the memory of one wasm backend: the compiled module, its scratch memory and its threads.
 * Memory in addition to the operands: about 0.7 MB per thread, kept as long as the backend.
 */
export class Gemm {
  readonly exports: Exports;
  /** Whether products use fused multiply-add. */
  readonly isFused = hasRelaxedSimd();
  private readonly memory: WebAssembly.Memory;
  private readonly module: WebAssembly.Module;
  private readonly scratch: number;
  /**
   * The job that threads share. A thread that wakes late may still take tiles of it, but then the caller waits for it.
   */
  private shared: Int32Array;
  /** The job of a product that the calling thread computes alone, where no other thread can find it. */
  private alone: Int32Array;
  private threadCount = 1;
  private readonly workers: InstanceType<WorkerConstructor>[] = [];

  constructor(private readonly backend: WasmBackend) {
    this.memory = memoryOf(backend);
    const shared = this.memory.buffer.constructor.name === 'SharedArrayBuffer';
    this.module = new WebAssembly.Module(moduleBytes(this.isFused ? relaxedBinary : nativeBinary, shared));
    this.exports = new WebAssembly.Instance(this.module, {env: {memory: this.memory}})
      .exports as unknown as Exports;
    this.scratch = this.newScratch();
    const jobs = backend.wasm._malloc(2 * 4 * JOB_WORDS) >>> 0;
    this.shared = new Int32Array(this.memory.buffer, jobs, JOB_WORDS).fill(0);
    this.alone = new Int32Array(this.memory.buffer, jobs + 4 * JOB_WORDS, JOB_WORDS).fill(0);
  }

  get threads(): number {
    return this.threadCount;
  }

  /**
   * Lets `count` threads, including the calling one, share large products. Needs shared memory; their number never
   * falls.
   */
  startThreads(count: number, Worker: WorkerConstructor): void {
    for (; this.threadCount < count; this.threadCount++) {
      const workerData = {
        module: this.module,
        memory: this.memory,
        job: this.shared.byteOffset,
        scratch: this.newScratch(),
      };
      const worker = new Worker(WORKER_SOURCE, {eval: true, workerData});
      // A dead thread's tiles are left to the others, unless it died while computing one. Then C is incomplete and the
      // caller would wait forever, so the process must end.
      worker.on('error', (error) => {
        throw error;
      });
      worker.unref();
      this.workers.push(worker);
    }
  }

  /** Ends the threads, because the backend is being disposed. */
  stopThreads(): void {
    for (const worker of this.workers.splice(0)) void worker.terminate();
    this.threadCount = 1;
  }

  /** Computes a product. */
  multiply({m, n, k, batch, a, b, bType, c, quantized = 0}: Product): void {
    if (m === 0 || n === 0 || batch === 0) return;
    // Unshared memory moves to another buffer when it grows.
    if (this.shared.buffer !== this.memory.buffer) {
      this.shared = new Int32Array(this.memory.buffer, this.shared.byteOffset, JOB_WORDS);
      this.alone = new Int32Array(this.memory.buffer, this.alone.byteOffset, JOB_WORDS);
    }
    const share = this.threadCount > 1 && m * n * k * batch >= WORTH_SHARING;
    const words = share ? this.shared : this.alone;
    const job = words.byteOffset;
    let tileRows = m;
    let tileCols = Math.min(n, MAX_TILE_COLS);
    if (share) {
      const enough = 4 * this.threadCount;
      while (
        batch * Math.ceil(m / tileRows) * Math.ceil(n / tileCols) < enough &&
        tileRows * tileCols * k > SMALLEST_TILE
      ) {
        if (tileRows >= tileCols && tileRows > 8) tileRows = roundUp(tileRows / 2, 4);
        else if (tileCols > 16) tileCols = roundUp(tileCols / 2, 8);
        else break;
      }
    }
    const rowTiles = Math.ceil(m / tileRows);
    const colTiles = Math.ceil(n / tileCols);
    const tiles = batch * rowTiles * colTiles;
    words[0] = a.offset;
    words[1] = b.offset;
    words[2] = c;
    words[3] = m;
    words[4] = n;
    words[5] = k;
    words[6] = a.row;
    words[7] = a.col;
    words[8] = b.row;
    words[9] = b.col;
    words[10] = bType;
    words[11] = a.batch;
    words[12] = b.batch;
    words[13] = m * n;
    words[14] = tileRows;
    words[15] = tileCols;
    words[16] = rowTiles;
    words[17] = colTiles;
    words[DONE] = 0;
    words[QUANTIZED] = quantized;
    if (!share) {
      words[REMAINING] = tiles;
      this.exports.work(job, this.scratch);
      return;
    }
    // A thread takes a tile by counting `remaining` down to it, so one that wakes late finds none.
    Atomics.store(words, REMAINING, tiles);
    Atomics.add(words, GENERATION, 1);
    Atomics.notify(words, GENERATION);
    this.exports.work(job, this.scratch);
    for (let done = Atomics.load(words, DONE); done < tiles; done = Atomics.load(words, DONE)) {
      Atomics.wait(words, DONE, done, 1);
    }
  }

  private newScratch(): number {
    return this.backend.wasm._malloc(4 * this.exports.scratchFloats()) >>> 0;
  }
}

function roundUp(value: number, multiple: number): number {
  return Math.ceil(value / multiple) * multiple;
}

/** Precedes the flags in the module that say whether the memory it imports is shared. */
const MEMORY_FLAGS = new TextEncoder().encode('\x03env\x06memory\x02');

function moduleBytes(base64: string, shared: boolean): Uint8Array<ArrayBuffer> {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  const at =
    bytes.findIndex((_, i) => MEMORY_FLAGS.every((byte, j) => bytes[i + j] === byte)) + MEMORY_FLAGS.length;
  bytes[at] = shared ? 3 : 1; // both flags include a maximum
  return bytes;
}

/** Whether this engine has relaxed SIMD, whose fused multiply-add makes products a third faster. */
export function hasRelaxedSimd(): boolean {
  return WebAssembly.validate(moduleBytes(relaxedBinary, true));
}

// Stored on the backend, so that two copies of this file (ES module and CommonJS) use one.
const KEY = Symbol.for('tfjs-lora.wasm.gemm');

/** Returns the only {@link Gemm} of a backend, made at first use. */
export function gemmOf(backend: WasmBackend): Gemm {
  const holder = backend as WasmBackend & {[KEY]?: Gemm};
  if (!holder[KEY]) {
    const gemm = new Gemm(backend);
    const dispose = backend.dispose;
    holder[KEY] = gemm;
    holder.dispose = () => {
      gemm.stopThreads();
      dispose.call(backend);
    };
  }
  return holder[KEY];
}
