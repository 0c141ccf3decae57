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
   * What large products are multiplied in; sums are float32 either way. Default `float32`, or as before when the backend
   * runs already.
   *
   * `float16`, on `webgpu`, is several times faster on cards with matrix units; operands are scaled row by row, so that
   * nothing under- or overflows. Falls back to `float32` where the device has no 16-bit floats.
   *
   * `bfloat16`, on `tensorflow`, is for weights of 16 and fewer bits: faster on cards and on processors with AVX-512;
   * elsewhere operands are rounded to it all the same, and multiplied in float32. Where the first call of a process asks for it,
   * a card multiplies float32 in TF32 (10 bits) from then on; the report says so.
   */
  computeDtype?: 'float16' | 'bfloat16' | 'float32';
  /**
   * `webgpu`: whether the tiles of large products are chosen by measuring a few for each shape, before a model's first training
   * step and wherever `compileShaders` is called: at most some seconds, of which the result is kept in the user's cache folder
   * (`tfjs-lora/tuning.json`), in a browser in its local storage. Default false, or as before when the backend runs already.
   */
  tune?: boolean;
  /**
   * `tensorflow`, on the processor: whether kernels use the ops that `tfjs-lora setup tensorflow` compiled, one for what is else a
   * dozen of TensorFlow's. Default true, unless the variable `TFJS_LORA_FUSED_OPS` is 0, or as before when the backend runs already.
   */
  fusedOps?: boolean;
}

/** What a backend says of itself once it runs. */
export interface StartedBackend {
  /** What the numbers are crunched on: the processor's or graphics card's name. */
  device: string;
  /** What it can do here beyond the least, for example `simd` or `2 threads`. */
  features: string[];
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
