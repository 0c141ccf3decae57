import type {OptionNames} from '../../../quant/knownOptions.ts';
import type {ComputeDtype} from './computeDtype.ts';

/** Names of backends that {@link useBackend} accepts, apart from `auto`. */
export type BackendName = 'webgpu' | 'tensorflow' | 'wasm' | 'cpu';

export interface BackendOptions {
  /** Number of `wasm` threads, the calling one included. Default: as many as the machine runs in parallel. */
  threads?: number;
  /**
   * Number of `wasm` threads for the stock kernels, when `threads` is above 1. Default 1: these kernels are bound by
   * memory, and threads that wait for each other cost more than they gain.
   */
  stockThreads?: number;
  /**
   * Location of the files of `@tensorflow/tfjs-backend-wasm` (`dist/tfjs-backend-wasm*.wasm`) for `wasm` in a browser: a
   * folder's URL ending in a slash, or each file's URL by its name. Default: beside the script. Only the first call
   * counts.
   */
  wasmPaths?: string | Record<string, string>;
  /**
   * Type in which large products are multiplied; sums are always float32. Each backend takes the nearest type it has:
   * `bfloat16` on `tensorflow`, `float16` on `webgpu`, `float32` on `wasm` and `cpu`; the report names it. Default
   * `float32`, or unchanged when the backend is already running.
   *
   * 16 bits on `webgpu` are several times faster on cards with matrix units. Operands are scaled row by row, so that
   * nothing underflows or overflows. Devices without 16-bit floats multiply in `float32`.
   *
   * 16 bits on `tensorflow` are meant for weights of 16 or fewer bits. They are faster on cards and on processors with
   * AVX-512; elsewhere operands are still rounded to bfloat16, but multiplied in float32. When the first call of a
   * process requests 16 bits, a card multiplies float32 in TF32 (10 bits) from then on; the report says so.
   */
  computeDtype?: ComputeDtype;
  /**
   * Whether `webgpu` chooses the tiles of large products by measuring a few for each shape, before a model's first
   * training step and in each `compileShaders`. This takes at most a few seconds, and the result is stored in the
   * user's cache folder (`tfjs-lora/tuning.json`), or in local storage in a browser. Default false, or unchanged when
   * the backend is already running.
   */
  tune?: boolean;
  /**
   * Whether `tensorflow` kernels use the ops that `tfjs-lora setup tensorflow` compiled, each of which replaces about a
   * dozen of TensorFlow's; on a card, with `computeDtype: 'bfloat16'`, one op computes all decoder blocks. Default true
   * unless the variable `TFJS_LORA_FUSED_OPS` is 0, or unchanged when the backend is already running.
   */
  fusedOps?: boolean;
  /**
   * Name of the graphics card that `webgpu` uses in Node, or a part of it, on a machine with different cards; the error
   * for a wrong name lists those that are there. Among cards of one name it uses the first, and in a cluster each rank
   * of a host uses another. Default: the fastest.
   */
  adapter?: string;
}

/** Names of the options of {@link useBackend}. */
export const BACKEND_OPTIONS = {
  threads: true,
  stockThreads: true,
  wasmPaths: true,
  computeDtype: true,
  tune: true,
  fusedOps: true,
  adapter: true,
} satisfies OptionNames<BackendOptions>;

/** A running backend's description of itself. */
export interface StartedBackend {
  /** Name of the processor or graphics card. */
  device: string;
  /** Optional features available here, for example `simd` or `2 threads`. */
  features: string[];
  /** Type in which large products are multiplied. */
  computeDtype: ComputeDtype;
}

/** A backend of TensorFlow.js that {@link useBackend} can start. */
export interface Backend {
  name: BackendName;
  /**
   * Makes it the current backend of TensorFlow.js. Calling it again is harmless.
   *
   * @param isAsked whether the backend was requested by name; otherwise it must not start when another would be faster
   * @throws TfjsLoraError `BACKEND_UNAVAILABLE`, saying what is missing
   */
  start(options: BackendOptions, isAsked: boolean): Promise<StartedBackend>;
}
