import * as tf from '@tensorflow/tfjs';
import type {ChainStarter} from './chainStarter.ts';
import type {StackMemoryOf} from './stackMemory.ts';

/** Called with 0 at the beginning and again after each compiled shader; never called if no shader is missing. */
export type CompileProgress = (compiled: number, total: number) => void | Promise<void>;

/** The commands of ops that ran once. They can run again on the current contents of their tensors. */
export interface Replay {
  /** Whether the commands still own everything they read and write; if not, they must not run. */
  readonly isCurrent: boolean;
  /**
   * Runs the commands again. Each run advances counts of positions, such as `decodeAttention`'s `past`, by one.
   *
   * @param changes applied before the commands run: `copies` of one tensor into another, then `writes` of new values,
   *   of equal sizes each
   */
  run(changes: {
    copies?: [from: tf.Tensor, to: tf.Tensor][];
    writes?: [to: tf.Tensor, values: tf.TypedArray][];
  }): void;
  /** Frees the memory of the results between the ops. */
  dispose(): void;
}

/** Runs ops and keeps their commands. Returns undefined, after having run them, if they cannot be kept. */
type Recorder = (inputs: tf.Tensor[], run: () => void) => Replay | undefined;

/** The properties of a backend that its kernels do not show. */
export interface BackendTraits {
  /**
   * Whether values can be read synchronously. If not, checks of values wait until the values are read. Default true.
   */
  readsAtOnce: boolean;
  /** Whether plain ops keep all 32 bits of an integer; those of WebGL and WebGPU compute in float32. Default true. */
  keepsIntegers: boolean;
  /** Whether all tensors are in host memory. Default false, true for `cpu` and `wasm`. */
  isOnHost: boolean;
  /**
   * How many logits are computed in one product: a backend with many cores needs long products to keep them busy.
   * Default 2²⁴ (64 MiB of float32).
   */
  logitsAtOnce: number;
  /** The most bytes that a tensor may have. Default: no limit. */
  maxTensorBytes: number;
  /** Keeps the commands of ops; see `recordReplay`. By default a backend keeps none. */
  record?: Recorder;
  /**
   * Writes values into a tensor's memory, if only this tensor has it. Returns whether it did. By default a backend does
   * not.
   */
  overwrite?: (tensor: tf.Tensor, values: tf.TypedArray) => boolean;
  /** Limits of a kernel of `decodeStack`. Default 8 sequences, and adapters. */
  decodesStacks: {sequences: number; adapters: boolean};
  /** Starts a chain of passes; see `startTokenChain`. By default a backend has none. */
  startChain?: ChainStarter;
  /** Computes the memory of `decoderStack` and its loss. By default it is that of the ops of a card in TensorFlow. */
  stackMemory?: StackMemoryOf;
  /** Waits for gradients that are computed later; see `settleGradients`. By default there are none. */
  settle?: () => Promise<void>;
  /** Compiles the shaders that `run` needs; see `compileShaders`. By default a backend has none. */
  compileShaders?: (run: () => void, onProgress?: CompileProgress) => Promise<void>;
}

const DEFAULTS: BackendTraits = {
  readsAtOnce: true,
  keepsIntegers: true,
  isOnHost: false,
  logitsAtOnce: 1 << 24,
  maxTensorBytes: Number.POSITIVE_INFINITY,
  decodesStacks: {sequences: 8, adapters: true},
};

/** The traits of TensorFlow.js's own backends. */
const STOCK: Record<string, Partial<BackendTraits>> = {
  cpu: {isOnHost: true},
  wasm: {isOnHost: true},
  webgl: {keepsIntegers: false},
  webgpu: {keepsIntegers: false, readsAtOnce: false},
};

const traitsByBackend = new WeakMap<object, Partial<BackendTraits>>();

/** Returns the traits of the active backend. */
export function backendTraits(): BackendTraits {
  return {...DEFAULTS, ...STOCK[tf.getBackend()], ...traitsByBackend.get(tf.backend())};
}

/** Sets traits of a backend; those not given do not change. */
export function setBackendTraits(backend: object, traits: Partial<BackendTraits>): void {
  traitsByBackend.set(backend, {...traitsByBackend.get(backend), ...traits});
}
