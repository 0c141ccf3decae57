import {type ChildProcess, spawn} from 'node:child_process';
import {once} from 'node:events';
import {createServer, type Server} from 'node:net';
import {join} from 'node:path';
import {setTimeout} from 'node:timers/promises';
import {compiledScript} from '../../../compiledScript.ts';
import type {RankResult, RankTask} from './rankProgram.ts';

const RANK_PROGRAM = compiledScript(join(__dirname, 'rankProgram.ts'));

/** A rank that was started, and its results when it has ended. */
export interface StartedRank {
  child: ChildProcess;
  port: number;
  ended: Promise<{results: RankResult[]; signal: string | null; text: string}>;
}

/**
 * Starts a process for each list of tasks on this machine.
 *
 * @param delays milliseconds after which each starts. Default 0
 */
export async function startRanks(
  tasksOfRanks: RankTask[][],
  variables: object = {},
  delays: number[] = [],
): Promise<StartedRank[]> {
  const ports = await freePorts(tasksOfRanks.length);
  const worker = ports.map((port) => `127.0.0.1:${port}`);
  const started = tasksOfRanks.map(async (tasks, index) => {
    await setTimeout(delays[index] ?? 0);
    const TF_CONFIG = JSON.stringify({cluster: {worker}, task: {type: 'worker', index}});
    const env = {...process.env, TF_CONFIG, OMP_NUM_THREADS: '1', ...variables};
    const child = spawn(process.execPath, [RANK_PROGRAM, JSON.stringify(tasks)], {env});
    let text = '';
    for (const stream of [child.stdout, child.stderr])
      stream.on('data', (data) => {
        text += data;
      });
    const ended = once(child, 'close').then(([, signal]) => {
      const lines = text.split('\n').filter((line) => line.startsWith('{'));
      return {results: lines.map((line) => JSON.parse(line) as RankResult), signal, text};
    });
    return {child, port: ports[index], ended};
  });
  return Promise.all(started);
}

async function freePorts(count: number): Promise<number[]> {
  const servers = await Promise.all(
    Array.from({length: count}, async () => {
      const server = createServer().listen(0, '127.0.0.1');
      await once(server, 'listening');
      return server;
    }),
  );
  const portOf = (server: Server) => (server.address() as {port: number}).port;
  const ports = servers.map(portOf);
  await Promise.all(servers.map((server) => once(server.close(), 'close')));
  return ports;
}
