import {didYouMean, TfjsLoraError} from '../../../quant/errors.ts';
import {assertKnownOptions} from '../../../quant/knownOptions.ts';
import {show} from '../../../quant/show.ts';
import {
  BACKEND_OPTIONS,
  type Backend,
  type BackendName,
  type BackendOptions,
  type StartedBackend,
} from './backend.ts';
import {assertComputeDtype, type ComputeDtype} from './computeDtype.ts';
import {cpu} from './cpu.ts';
import {tensorflow} from './tensorflow.ts';
import {wasm} from './wasm.ts';
import {webgpu} from './webgpu.ts';

export type {BackendName, BackendOptions} from './backend.ts';

/** Other libraries' names for a graphics card. */
const CARDS = /^(gpu|cuda|webgl|metal|mps|nvidia|node)/i;

/** Backends in the order in which `auto` tries them: fastest first. */
const BACKENDS: Backend[] = [webgpu, tensorflow, wasm, cpu];

/** Names of the backends, in that order. */
export const BACKEND_NAMES: readonly BackendName[] = BACKENDS.map(({name}) => name);

/** Result of trying one backend. */
export interface BackendAttempt {
  backend: BackendName;
  available: boolean;
  /** Why it was chosen, or what is missing. */
  reason: string;
}

/** The backend that {@link useBackend} chose, and why. Printing it gives a short text. */
export interface BackendReport {
  backend: BackendName;
  /** Name of the processor or graphics card. */
  device: string;
  features: string[];
  /** Type in which large products are multiplied: the requested one, or the nearest that the backend has. */
  computeDtype: ComputeDtype;
  /** Why this backend was chosen. */
  reason: string;
  /** All backends tried, in order; the last is the chosen one. */
  tried: BackendAttempt[];
  toString(): string;
}

/**
 * Chooses the backend that runs the tensor operations, and registers this library's kernels for it. Call it before
 * making tensors. Calling it again with the same name changes nothing; with another name it switches.
 *
 * @param name name of the backend; `auto` chooses the first of `webgpu`, `tensorflow`, `wasm` and `cpu` that works.
 *   Default `auto`
 * @throws TfjsLoraError `INVALID_ARGUMENT` for an unknown name or type, `BACKEND_UNAVAILABLE` when the named one cannot
 *   run here, `UNSUPPORTED` when the running `wasm` backend has another number of threads than requested
 * @example
 * ```ts
 * import {useBackend} from 'tfjs-lora';
 *
 * const report = await useBackend('auto', {computeDtype: 'bfloat16'});
 * console.log(`${report}`); // what was chosen, and what is missing for the others
 * ```
 */
export async function useBackend(
  name: 'auto' | BackendName = 'auto',
  options: BackendOptions = {},
): Promise<BackendReport> {
  assertKnownOptions('useBackend', options, BACKEND_OPTIONS);
  const known = ['auto', ...BACKEND_NAMES];
  if (!known.includes(name)) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `useBackend: expected ${known.join(', ')}, got ${typeof name === 'string' ? name : show(name)}.` +
        (CARDS.test(String(name))
          ? ' A graphics card is used by webgpu, and one of NVIDIA also by tensorflow.'
          : didYouMean(name, known)),
    );
  }
  assertComputeDtype(options.computeDtype);
  const tried: BackendAttempt[] = [];
  for (const backend of BACKENDS) {
    if (name !== 'auto' && backend.name !== name) continue;
    try {
      const started = await backend.start(options, name !== 'auto');
      const reason = name === 'auto' ? 'the fastest that works' : 'requested';
      tried.push({backend: backend.name, available: true, reason});
      return report({backend: backend.name, ...withNearest(started, options), reason, tried});
    } catch (error) {
      const isMissing = error instanceof TfjsLoraError && error.code === 'BACKEND_UNAVAILABLE';
      if (name !== 'auto' || !isMissing) throw error;
      tried.push({backend: backend.name, available: false, reason: error.message});
    }
  }
  throw new TfjsLoraError('BACKEND_UNAVAILABLE', tried.map(({reason}) => reason).join('\n'));
}

/** Adds a note when the requested type was replaced by the nearest one. */
function withNearest(started: StartedBackend, {computeDtype: asked}: BackendOptions): StartedBackend {
  const {computeDtype, features} = started;
  if (asked === undefined || asked === computeDtype) return started;
  return {...started, features: [...features, `${computeDtype} is the nearest type to ${asked}`]};
}

function report(fields: Omit<BackendReport, 'toString'>): BackendReport {
  const {backend, device, features, reason, tried} = fields;
  const lines = [
    `backend ${backend} (${reason}): ${device}, ${features.join(', ')}`,
    ...tried
      .filter(({available}) => !available)
      .map((attempt) => `  not ${attempt.backend}: ${attempt.reason}`),
  ];
  return Object.defineProperty(fields, 'toString', {value: () => lines.join('\n')}) as BackendReport;
}
