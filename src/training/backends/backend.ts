import type {OptionNames} from '../../../quant/knownOptions.ts';
import type {ComputeDtype} from './computeDtype.ts';

/** Backends by the names {@link useBackend} takes; `auto` is not one of them. */
export type BackendName = 'webgpu' | 'tensorflow' | 'wasm' | 'cpu';

export interface BackendOptions {
  /** `wasm`: how many threads share the work, this one included. Default: as many as the machine runs at once. */
  threads?: number;
  /**
   * `wasm`: how many threads the stock kernels use, with `threads` above 1. Default 1: they are bound by memory, and
   * waiting for each other costs more than they gain.
   */
  stockThreads?: number;
  /**
   * `wasm` in a browser: where the page has the files of `@tensorflow/tfjs-backend-wasm` (`dist/tfjs-backend-wasm*.wasm`):
   * a folder's URL ending in a slash, or each file's URL by its name. Default: beside the script. Only the first call counts.
   */
  wasmPaths?: string | Record<string, string>;
  /**
   * What large products are multiplied in; sums are float32 either way. A wish: each backend takes the nearest type it has,
   * `bfloat16` on `tensorflow`, `float16` on `webgpu`, `float32` on `wasm` and `cpu`, and the report says which. Default
   * `float32`, or as before when the backend runs already.
   *
   * 16 bits on `webgpu` are several times faster on cards with matrix units; operands are scaled row by row, so that
   * nothing under- or overflows. Devices without 16-bit floats multiply in `float32`.
   *
   * 16 bits on `tensorflow` are for weights of 16 and fewer bits: faster on cards and on processors with AVX-512;
   * elsewhere operands are rounded to bfloat16 all the same, and multiplied in float32. Where the first call of a process asks
   * for 16 bits, a card multiplies float32 in TF32 (10 bits) from then on; the report says so.
   */
  computeDtype?: ComputeDtype;
  /**
   * `webgpu`: whether the tiles of large products are chosen by measuring a few for each shape, before a model's first training
   * step and wherever `compileShaders` is called: at most some seconds, of which the result is kept in the user's cache folder
   * (`tfjs-lora/tuning.json`), in a browser in its local storage. Default false, or as before when the backend runs already.
   */
  tune?: boolean;
  /**
   * `tensorflow`: whether kernels use the ops that `tfjs-lora setup tensorflow` compiled, one for what is else a dozen of
   * TensorFlow's; on a card, with `computeDtype: 'bfloat16'`, one for all decoder blocks. Default true, unless the variable `TFJS_LORA_FUSED_OPS` is 0, or as before when the backend runs already.
   */
  fusedOps?: boolean;
}

/** What {@link useBackend} takes. */
export const BACKEND_OPTIONS = {
  threads: true,
  stockThreads: true,
  wasmPaths: true,
  computeDtype: true,
  tune: true,
  fusedOps: true,
} satisfies OptionNames<BackendOptions>;

/** What a backend says of itself once it runs. */
export interface StartedBackend {
  /** What the numbers are crunched on: the processor's or graphics card's name. */
  device: string;
  /** What it can do here beyond the least, for example `simd` or `2 threads`. */
  features: string[];
  /** What large products are multiplied in. */
  computeDtype: ComputeDtype;
}

/** One way to run tensors. */
export interface Backend {
  name: BackendName;
  /**
   * Makes it the current backend of TensorFlow.js. Calling it again is harmless.
   *
   * @param isAsked whether it was asked for by name: if not, it must not come up where another would be faster
   * @throws TfjsLoraError `BACKEND_UNAVAILABLE`, saying what is missing
   */
  start(options: BackendOptions, isAsked: boolean): Promise<StartedBackend>;
}
