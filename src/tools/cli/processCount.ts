import {InvalidArgumentError} from 'commander';
import {nvidiaCards} from '../../training/backends/cudaLibraries.ts';

export type ProcessCount = number | 'auto';

type Environment = Readonly<Record<string, string | undefined>>;

/** Reads the value of `--processes`. */
export function processCount(text: string): ProcessCount {
  if (text === 'auto') return text;
  const count = Number(text);
  if (Number.isInteger(count) && count > 0) return count;
  throw new InvalidArgumentError('Expected a number of processes, or auto.');
}

/**
 * Returns the number of processes to start on this host. `auto` is one for each NVIDIA card that is visible. With
 * `FORCE_TORCHRUN=1`, as for LLaMA-Factory, the default is `NPROC_PER_NODE`, or else `auto`.
 */
export async function processesToStart(
  asked: ProcessCount | undefined,
  environment: Environment,
): Promise<number> {
  const {FORCE_TORCHRUN = '', NPROC_PER_NODE, CUDA_VISIBLE_DEVICES} = environment;
  const isForced = ['1', 'true', 'y'].includes(FORCE_TORCHRUN.toLowerCase());
  const count = asked ?? (isForced ? processCount(NPROC_PER_NODE ?? 'auto') : 1);
  if (count !== 'auto') return count;
  const visible = CUDA_VISIBLE_DEVICES?.split(',').filter((card) => card !== '') ?? (await nvidiaCards());
  return Math.max(1, visible.length);
}
