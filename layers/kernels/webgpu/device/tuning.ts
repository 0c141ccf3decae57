import {measureShaders} from './measureShaders.ts';
import {isDryRun, runShader, type ShaderCall} from './runShader.ts';
import type {ShaderDeclaration} from './shader.ts';
import type {WebGPUBackend} from './webgpuBackend.ts';

/** Keeps choices from one process to the next: names of candidates by device and shape. */
export interface TuningStore {
  load(): Promise<Record<string, string>>;
  save(choices: Record<string, string>): Promise<void>;
}

export interface TuningOptions {
  /** Names the card and its driver, because what is fast on one is not on another. */
  device: string;
  store: TuningStore;
  /** Returns the milliseconds of each shader, infinite for one that cannot run. Default {@link measureShaders}. */
  measure?: (backend: WebGPUBackend, calls: ShaderCall[]) => Promise<number[]>;
}

/** A way to write a shader: plain numbers, which name it. */
type Candidate = object;

interface Tuner extends Required<TuningOptions> {
  /** The stored names. */
  names: Record<string, string>;
  /** Choices by kernel and shape. */
  chosen: Map<string, Candidate>;
  /** Shapes that a dry run met and that are not measured yet. */
  met: Map<string, {candidates: readonly Candidate[]; calls: ShaderCall[]}>;
}

/** Version of the candidates; changing it discards earlier measurements. */
const VERSION = 1;

/** A candidate must save at least this part of the default's time; less may be noise. */
const LEAST_GAIN = 0.03;

/** After this many milliseconds no further shape is measured; the rest keep their default until the next run. */
const MAX_MILLISECONDS = 3000;

const tuners = new WeakMap<GPUDevice, Tuner>();

/**
 * Measures the shapes that `compileShaders` meets from now on, or takes them from the store; without `options`, tunes
 * none.
 */
export async function setTuning({device}: WebGPUBackend, options: TuningOptions | undefined): Promise<void> {
  if (!options) {
    tuners.delete(device);
    return;
  }
  const names = await options.store.load();
  tuners.set(device, {measure: measureShaders, ...options, names, chosen: new Map(), met: new Map()});
}

export const isTuned = ({device}: WebGPUBackend): boolean => tuners.has(device);

/**
 * Runs a shader that can be written in several ways, in the fastest way known for its shape.
 *
 * @param kernel the kernel's name and its settings that are not in the shape
 * @param shape the sizes that decide how fast each way is
 * @param candidates the ways, the default first
 */
export function runTuned<T extends Candidate, D extends ShaderDeclaration>(
  backend: WebGPUBackend,
  kernel: string,
  shape: (string | number)[],
  candidates: readonly T[],
  make: (candidate: T) => ShaderCall<D>,
): void {
  const tuner = tuners.get(backend.device);
  runShader(
    backend,
    make(tuner ? choose(backend, tuner, `${kernel} ${shape}`, candidates, make) : candidates[0]),
  );
}

function choose<T extends Candidate, D extends ShaderDeclaration>(
  backend: WebGPUBackend,
  {chosen, names, met, device}: Tuner,
  key: string,
  candidates: readonly T[],
  make: (candidate: T) => ShaderCall<D>,
): T {
  const known = chosen.get(key);
  if (known) return known as T;
  const name = names[storedKey(device, key)];
  const stored = candidates.find((candidate) => nameOf(candidate) === name);
  if (stored) chosen.set(key, stored);
  else if (isDryRun(backend.device) && !met.has(key))
    met.set(key, {candidates, calls: candidates.map(make) as ShaderCall[]});
  return stored ?? candidates[0];
}

/**
 * Measures the shapes that were met and stores the best candidates.
 *
 * @returns whether any of them is not the default
 */
export async function tuneMet(backend: WebGPUBackend): Promise<boolean> {
  const tuner = tuners.get(backend.device);
  if (!tuner || tuner.met.size === 0) return false;
  const {device, names, chosen, store} = tuner;
  const met = [...tuner.met];
  tuner.met.clear();
  const end = performance.now() + MAX_MILLISECONDS;
  let isChanged = false;
  for (const [key, {candidates, calls}] of met) {
    if (performance.now() > end) break;
    const best = fastest(await tuner.measure(backend, calls));
    chosen.set(key, candidates[best]);
    names[storedKey(device, key)] = nameOf(candidates[best]);
    isChanged ||= best > 0;
  }
  await store.save(names);
  return isChanged;
}

/** Returns the index of the shortest time; the first one unless another is clearly shorter. */
function fastest(times: number[]): number {
  const best = times.indexOf(Math.min(...times));
  return times[best] < (1 - LEAST_GAIN) * times[0] ? best : 0;
}

const storedKey = (device: string, key: string): string => `${VERSION} ${device}: ${key}`;

const nameOf = (candidate: Candidate): string => Object.values(candidate).join();

/** Rounds rows up to a power of two, because batches differ in length. */
export const rowClass = (rows: number): number => 2 ** Math.ceil(Math.log2(rows));
