import {TfjsLoraError} from '../../../quant/errors.ts';
import {show} from '../../../quant/show.ts';

/** A process's place among the processes that train one model together, its ranks. */
export interface ClusterPlace {
  rank: number;
  /** `host:port` of each rank; a rank listens on the port of its own. */
  addresses: string[];
  /** Number of the rank among those of its host, by which it takes a card. */
  localRank: number;
  /** What named the place: `TF_CONFIG`, `torchrun`, `OpenMPI` or `SLURM`. */
  source: string;
}

type Environment = Readonly<Record<string, string | undefined>>;

/** Port of the first rank of a host, unless `MASTER_PORT` is set; torchrun's own default. */
const DEFAULT_PORT = 29500;

/** Reads a place from the variables of a launcher, or returns undefined if they are not there. */
type Reader = (environment: Environment) => ClusterPlace | undefined;

/** The launchers, the most exact first: only `TF_CONFIG` lists the ports. */
const READERS: readonly Reader[] = [fromTfConfig, fromTorchrun, fromOpenMpi, fromSlurm];

/**
 * Reads this process's place from the variables that a launcher sets: `TF_CONFIG` (TensorFlow, Kubeflow's TFJob),
 * `RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `MASTER_ADDR` and `MASTER_PORT` (torchrun), OpenMPI's, or SLURM's. Except for
 * `TF_CONFIG`, a rank's port is `MASTER_PORT + 1 + LOCAL_RANK`. On several hosts, SLURM names them, and
 * `TFJS_LORA_HOSTS` names them for torchrun and OpenMPI, comma separated in the order of ranks.
 *
 * @returns undefined without a launcher, or if it started a single process
 * @throws TfjsLoraError `INVALID_ARGUMENT` naming the variable
 */
export function clusterPlace(environment: Environment): ClusterPlace | undefined {
  for (const read of READERS) {
    const place = read(environment);
    if (place) return place.addresses.length > 1 ? place : undefined;
  }
  return undefined;
}

function fromTfConfig({TF_CONFIG, LOCAL_RANK}: Environment): ClusterPlace | undefined {
  if (!TF_CONFIG) return undefined;
  const {cluster, task} = parsed(TF_CONFIG);
  const types = ['chief', 'master', 'worker'];
  const others = Object.keys(cluster).filter((type) => !types.includes(type) && cluster[type].length > 0);
  if (others.length > 0) throw wrong('TF_CONFIG', 'only chief and worker tasks', others.join(', '));
  const present = types.filter((type) => cluster[type] !== undefined);
  const addresses = present.flatMap((type) => cluster[type]);
  const before = present.slice(0, present.indexOf(task.type)).flatMap((type) => cluster[type]).length;
  const rank = before + task.index;
  if (!present.includes(task.type) || !(task.index < cluster[task.type].length))
    throw wrong('TF_CONFIG task', 'one of its cluster', `${task.type} ${task.index}`);
  const onHost = addresses.slice(0, rank).filter((each) => hostOf(each) === hostOf(addresses[rank]));
  const localRank = LOCAL_RANK === undefined ? onHost.length : numberIn({LOCAL_RANK}, 'LOCAL_RANK');
  return {rank, addresses, localRank, source: 'TF_CONFIG'};
}

function parsed(text: string): {
  cluster: Record<string, string[]>;
  task: {type: string; index: number};
} {
  try {
    const {cluster, task} = JSON.parse(text);
    const lists = Object.values(cluster);
    const areLists = lists.every(
      (list) => Array.isArray(list) && list.every((each) => /^[^\s:]+:\d+$/.test(each)),
    );
    const index = Number(task.index);
    if (areLists && typeof task.type === 'string' && Number.isInteger(index) && index >= 0)
      return {cluster, task: {type: task.type, index}};
  } catch {}
  throw wrong('TF_CONFIG', 'JSON with cluster (lists of host:port) and task (type, index)', show(text));
}

function fromTorchrun(environment: Environment): ClusterPlace | undefined {
  if (environment.RANK === undefined || environment.WORLD_SIZE === undefined) return undefined;
  const [rank, size] = ['RANK', 'WORLD_SIZE'].map((name) => numberIn(environment, name));
  const {LOCAL_RANK, LOCAL_WORLD_SIZE} = environment;
  const localRank = LOCAL_RANK === undefined ? rank : numberIn(environment, 'LOCAL_RANK');
  const perHost = LOCAL_WORLD_SIZE === undefined ? size : numberIn(environment, 'LOCAL_WORLD_SIZE');
  return placeOf(environment, {rank, size, localRank, perHost, source: 'torchrun'});
}

function fromOpenMpi(environment: Environment): ClusterPlace | undefined {
  if (environment.OMPI_COMM_WORLD_SIZE === undefined) return undefined;
  const [rank, size, localRank, perHost] = ['RANK', 'SIZE', 'LOCAL_RANK', 'LOCAL_SIZE'].map((name) =>
    numberIn(environment, `OMPI_COMM_WORLD_${name}`),
  );
  return placeOf(environment, {rank, size, localRank, perHost, source: 'OpenMPI'});
}

/** Reads the variables that `srun` sets for a step; those of the batch script alone start no ranks. */
function fromSlurm(environment: Environment): ClusterPlace | undefined {
  const {SLURM_STEP_NUM_TASKS, SLURM_STEP_NODELIST, SLURM_STEP_TASKS_PER_NODE} = environment;
  if (SLURM_STEP_NUM_TASKS === undefined) return undefined;
  const [rank, size, localRank] = ['SLURM_PROCID', 'SLURM_STEP_NUM_TASKS', 'SLURM_LOCALID'].map((name) =>
    numberIn(environment, name),
  );
  const hosts = expandHosts(SLURM_STEP_NODELIST ?? '');
  const counts = expandCounts(SLURM_STEP_TASKS_PER_NODE ?? '');
  if (counts.length !== hosts.length || counts.reduce((sum, count) => sum + count, 0) !== size)
    throw wrong(
      'SLURM_STEP_NODELIST and SLURM_STEP_TASKS_PER_NODE',
      `${size} tasks on the listed hosts`,
      `${show(SLURM_STEP_NODELIST)} and ${show(SLURM_STEP_TASKS_PER_NODE)}`,
    );
  const port = portIn(environment);
  const addresses = hosts.flatMap((host, i) =>
    Array.from({length: counts[i]}, (_, local) => `${host}:${port + 1 + local}`),
  );
  return {rank, addresses, localRank, source: 'SLURM'};
}

/** Expands SLURM's list of hosts: `node[01-03,7],login` is node01, node02, node03, node7 and login. */
function expandHosts(list: string): string[] {
  const entries = list.match(/[^,[\]]+(\[[^\]]*\][^,[\]]*)?/g) ?? [];
  return entries.flatMap((entry) => {
    const [, before, ranges, after] = /^([^[]*)\[([^\]]*)\](.*)$/.exec(entry) ?? [];
    if (ranges === undefined) return [entry];
    return ranges.split(',').flatMap((range) => {
      const [first, last = first] = range.split('-');
      return Array.from(
        {length: Number(last) - Number(first) + 1},
        (_, i) => `${before}${String(Number(first) + i).padStart(first.length, '0')}${after}`,
      );
    });
  });
}

/** Expands SLURM's counts: `2(x3),1` is 2, 2, 2 and 1. */
function expandCounts(text: string): number[] {
  return text.split(',').flatMap((part) => {
    const [, count, times = '1'] = /^(\d+)(?:\(x(\d+)\))?$/.exec(part) ?? [];
    return count === undefined ? [] : new Array<number>(Number(times)).fill(Number(count));
  });
}

/** Returns the place of a rank whose launcher starts the same number on each host, in order. */
function placeOf(
  environment: Environment,
  {rank, size, localRank, perHost, source}: Omit<ClusterPlace, 'addresses'> & {size: number; perHost: number},
): ClusterPlace {
  const {MASTER_ADDR = '127.0.0.1', TFJS_LORA_HOSTS} = environment;
  const port = portIn(environment);
  const hosts = TFJS_LORA_HOSTS?.split(',') ?? [MASTER_ADDR];
  if (hosts.length * perHost !== size) {
    throw wrong(
      'TFJS_LORA_HOSTS',
      `the names of all hosts, comma separated in the order of ranks, as ${source} started ${size} ranks with ${perHost} on this one`,
      TFJS_LORA_HOSTS === undefined ? 'none' : show(TFJS_LORA_HOSTS),
    );
  }
  const addresses = hosts.flatMap((host) =>
    Array.from({length: perHost}, (_, local) => `${host}:${port + 1 + local}`),
  );
  if (rank >= size) throw wrong('RANK', `a number below ${size}`, `${rank}`);
  return {rank, addresses, localRank, source};
}

const hostOf = (address: string): string => address.slice(0, address.lastIndexOf(':'));

const portIn = (environment: Environment): number =>
  environment.MASTER_PORT === undefined ? DEFAULT_PORT : numberIn(environment, 'MASTER_PORT');

function numberIn(environment: Environment, name: string): number {
  const text = environment[name];
  if (text !== undefined && /^\d+$/.test(text)) return Number(text);
  throw wrong(name, 'a whole number', text === undefined ? 'none' : show(text));
}

function wrong(name: string, expected: string, got: string): TfjsLoraError {
  return new TfjsLoraError('INVALID_ARGUMENT', `joinCluster ${name}: expected ${expected}, got ${got}.`);
}
