import * as tf from '@tensorflow/tfjs';

/** Called at the beginning, with 0, and whenever one more shader is compiled; not at all where none is missing. */
export type CompileProgress = (compiled: number, total: number) => void | Promise<void>;

/** The commands of ops that ran once, to be run again on what their tensors hold by then. */
export interface Replay {
  /** Whether everything the commands read and write is still theirs; if not, they must not run. */
  readonly isCurrent: boolean;
  /**
   * Runs them again. What counts positions, such as `decodeAttention`'s `past`, has grown by one with each run.
   *
   * @param changes before they run: `copies` of one tensor into another, then `writes` of new values, all of equal sizes
   */
  run(changes: {
    copies?: [from: tf.Tensor, to: tf.Tensor][];
    writes?: [to: tf.Tensor, values: tf.TypedArray][];
  }): void;
  /** Gives back the memory between the ops. */
  dispose(): void;
}

/** Runs ops and keeps their commands; undefined, after having run them, where they cannot be kept. */
type Recorder = (inputs: tf.Tensor[], run: () => void) => Replay | undefined;

/** What is particular to a backend, beside its kernels. */
export interface BackendTraits {
  /** Whether values can be read synchronously; where not, what would be checked at once is checked when it is read. Default true. */
  readsAtOnce: boolean;
  /** Whether plain ops keep all 32 bits of an integer: the graphics cards' compute in float32. Default true. */
  keepsIntegers: boolean;
  /** Whether all tensors are in memory of the host. Default false, true for `cpu` and `wasm`. */
  isOnHost: boolean;
  /**
   * How many logits are computed at once: a backend with many cores needs long products to keep them busy. Default 2²⁴ (64 MiB
   * of float32).
   */
  logitsAtOnce: number;
  /** Keeps the commands of ops, see `recordReplay`. By default none can. */
  record?: Recorder;
  /** Compiles the shaders that `run` needs, see `compileShaders`. By default there are none. */
  compileShaders?: (run: () => void, onProgress?: CompileProgress) => Promise<void>;
}

const DEFAULTS: BackendTraits = {
  readsAtOnce: true,
  keepsIntegers: true,
  isOnHost: false,
  logitsAtOnce: 1 << 24,
};

/** What differs in TensorFlow.js's own backends. */
const STOCK: Record<string, Partial<BackendTraits>> = {
  cpu: {isOnHost: true},
  wasm: {isOnHost: true},
  webgl: {keepsIntegers: false},
  webgpu: {keepsIntegers: false, readsAtOnce: false},
};

const traitsByBackend = new WeakMap<object, Partial<BackendTraits>>();

/** The traits of the active backend. */
export function backendTraits(): BackendTraits {
  return {...DEFAULTS, ...STOCK[tf.getBackend()], ...traitsByBackend.get(tf.backend())};
}

/** Says how a backend differs from what it is by default and was said to be before. */
export function setBackendTraits(backend: object, traits: Partial<BackendTraits>): void {
  traitsByBackend.set(backend, {...traitsByBackend.get(backend), ...traits});
}
