import {type ChildProcess, spawn} from 'node:child_process';
import {once} from 'node:events';
import {createServer, type Server} from 'node:net';
import {STOPPED} from './exitStatus.ts';

/** Milliseconds until the other ranks are killed after one has failed; most end by themselves before. */
const GRACE_MS = 10_000;

/** Number of lines of a rank's standard error that are shown if it fails. The first rank's are shown anyway. */
const LINES = 30;

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

type Variables = Record<string, string>;

/** A rank that runs on this host. */
interface LocalRank {
  rank: number;
  child: ChildProcess;
  /** Number of reductions that it has begun, and the time when it began the last one. */
  reductions: number;
  since: number;
  /** Latest lines of standard error; none of this host's first rank, which shows them itself. */
  lines: string[];
}

/**
 * Runs a command of this program on several processes of this host, its ranks, which listen on free ports. `NNODES`,
 * `NODE_RANK`, `MASTER_ADDR`, `MASTER_PORT` and `TFJS_LORA_HOSTS` let them train with those of other hosts. Signals are
 * passed on. When a rank ends with an error, is killed, or does not begin a reduction that others wait for, all end, and
 * the rank and the cause are printed.
 *
 * @param args arguments without the interpreter and the program's name
 * @param timeout seconds for which ranks wait for a reduction
 * @returns the exit status of the rank that failed first, or else of the first rank
 */
export async function runOnRanks(count: number, args: readonly string[], timeout: number): Promise<number> {
  const ranks = (await placesOfRanks(count, process.env)).map(([rank, variables], i) =>
    startRank(rank, variables, args, i === 0),
  );
  const forward = (signal: NodeJS.Signals) => {
    for (const {child} of ranks) child.kill(signal);
  };
  for (const signal of SIGNALS) process.on(signal, forward);
  let failure: {status: number} | undefined;
  const fail = ({rank, lines}: LocalRank, cause: string, status: number) => {
    if (failure) return;
    failure = {status};
    for (const line of lines) console.error(`rank ${rank}: ${line}`);
    console.error(`rank ${rank} ${cause}. All ranks end; the last checkpoint is kept.`);
    setTimeout(() => forward('SIGKILL'), GRACE_MS).unref();
  };
  const failLate = (seconds: number): boolean => {
    const late = lateRank(ranks, seconds);
    if (late) fail(late, `did not begin reduction ${late.reductions + 1} within ${timeout} s`, 1);
    return late !== undefined;
  };
  const watch = setInterval(() => failLate(timeout + GRACE_MS / 1000), 1000);
  try {
    const statuses = await Promise.all(
      ranks.map(async (each) => {
        const [code, signal] = (await once(each.child, 'close')) as [number | null, string | null];
        if (code === 0 || code === STOPPED) return code;
        const isLate = signal === null && failLate(timeout - 1); // the others end when they have waited
        if (!isLate) fail(each, signal ? describeSignal(signal) : `ended with status ${code}`, code ?? 1);
        return code ?? 1;
      }),
    );
    return failure?.status ?? statuses[0];
  } finally {
    clearInterval(watch);
    for (const signal of SIGNALS) process.removeListener(signal, forward);
  }
}

const describeSignal = (signal: string): string =>
  `was killed by ${signal}${signal === 'SIGKILL' ? ', maybe because memory ran out' : ''}`;

/** Returns a running rank that has not begun a reduction for which others have waited so many seconds. */
function lateRank(ranks: LocalRank[], seconds: number): LocalRank | undefined {
  const most = Math.max(...ranks.map(({reductions}) => reductions));
  const begun = Math.min(...ranks.filter(({reductions}) => reductions === most).map(({since}) => since));
  if (performance.now() - begun < 1000 * seconds) return undefined;
  return ranks.find(
    ({reductions, child}) => reductions < most && child.exitCode === null && child.signalCode === null,
  );
}

function startRank(
  rank: number,
  variables: Variables,
  args: readonly string[],
  isFirstHere: boolean,
): LocalRank {
  const child = spawn(process.execPath, [...process.execArgv, process.argv[1], ...args], {
    env: {...process.env, ...variables},
    stdio: isFirstHere ? ['ignore', 'inherit', 'inherit', 'ipc'] : ['ignore', 'ignore', 'pipe', 'ipc'],
  });
  const started: LocalRank = {rank, child, reductions: 0, since: performance.now(), lines: []};
  child.on('message', ({reduction}: {reduction: number}) => {
    started.reductions = reduction;
    started.since = performance.now();
  });
  let text = '';
  child.stderr?.on('data', (data) => {
    text = (text + data).slice(-10_000);
    started.lines = text.trimEnd().split('\n').slice(-LINES);
  });
  return started;
}

/** Returns the ranks of this host with the variables that give each its place. */
async function placesOfRanks(
  count: number,
  environment: Readonly<Record<string, string | undefined>>,
): Promise<[rank: number, Variables][]> {
  const {NNODES = '1', NODE_RANK = '0'} = environment;
  if (Number(NNODES) === 1) {
    const worker = (await freePorts(count)).map((port) => `127.0.0.1:${port}`);
    return worker.map((_, index) => [
      index,
      {TF_CONFIG: JSON.stringify({cluster: {worker}, task: {type: 'worker', index}})},
    ]);
  }
  return Array.from({length: count}, (_, local) => {
    const rank = Number(NODE_RANK) * count + local;
    const variables = {
      RANK: rank,
      WORLD_SIZE: Number(NNODES) * count,
      LOCAL_RANK: local,
      LOCAL_WORLD_SIZE: count,
    };
    return [rank, Object.fromEntries(Object.entries(variables).map(([name, value]) => [name, `${value}`]))];
  });
}

/** Finds ports that are free now. They may be taken before a rank listens, which then says so. */
async function freePorts(count: number): Promise<number[]> {
  const servers = Array.from({length: count}, () => createServer().listen(0, '127.0.0.1'));
  await Promise.all(servers.map((server) => once(server, 'listening')));
  const ports = servers.map((server: Server) => (server.address() as {port: number}).port);
  await Promise.all(servers.map((server) => once(server.close(), 'close')));
  return ports;
}
