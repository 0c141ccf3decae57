import {measureShaders} from './measureShaders.ts';
import {isDryRun, runShader, type ShaderCall} from './runShader.ts';
import type {ShaderDeclaration} from './shader.ts';
import type {WebGPUBackend} from './webgpuBackend.ts';

/** Where choices are kept from one process to the next: names of candidates by device and shape. */
export interface TuningStore {
  load(): Promise<Record<string, string>>;
  save(choices: Record<string, string>): Promise<void>;
}

export interface TuningOptions {
  /** Names card and driver: what is fast on one is not on another. */
  device: string;
  store: TuningStore;
  /** Milliseconds of each shader, infinite for one that cannot run. Default {@link measureShaders}. */
  measure?: (backend: WebGPUBackend, calls: ShaderCall[]) => Promise<number[]>;
}

/** How a shader may be written; plain numbers, which name it. */
type Candidate = object;

interface Tuner extends Required<TuningOptions> {
  /** As they are stored. */
  names: Record<string, string>;
  /** By the kernel and the shape. */
  chosen: Map<string, Candidate>;
  /** What a dry run met and nobody has measured. */
  met: Map<string, {candidates: readonly Candidate[]; calls: ShaderCall[]}>;
}

/** Of what the candidates are: another number forgets what was measured before. */
const VERSION = 1;

/** Part of the default's time that a candidate must save: less may be noise. */
const LEAST_GAIN = 0.03;

/** No further shape is measured after so many milliseconds; the rest keep their default, and come the next time. */
const MAX_MILLISECONDS = 3000;

const tuners = new WeakMap<GPUDevice, Tuner>();

/** From now on shapes that `compileShaders` meets are measured, or taken from the store; without `options` none are. */
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
 * Runs a shader that can be written in several ways, by the fastest that is known for its shape.
 *
 * @param kernel its name, and whatever of it is not in the shape
 * @param shape what decides how fast each way is
 * @param candidates the default first
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
 * Measures the shapes that were met, and stores what is best.
 *
 * @returns whether it is another than the default for some
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

/** The index of the shortest time; the first one's, unless another is clearly shorter. */
function fastest(times: number[]): number {
  const best = times.indexOf(Math.min(...times));
  return times[best] < (1 - LEAST_GAIN) * times[0] ? best : 0;
}

const storedKey = (device: string, key: string): string => `${VERSION} ${device}: ${key}`;

const nameOf = (candidate: Candidate): string => Object.values(candidate).join();

/** Rows count by powers of two: batches differ in length. */
export const rowClass = (rows: number): number => 2 ** Math.ceil(Math.log2(rows));
