import {readdirSync, readFileSync} from 'node:fs';
import {join} from 'node:path';
import {setTimeout} from 'node:timers/promises';
import seedrandom from 'seedrandom';
import {temporaryFolder} from '../temporaryFolder.ts';
import type {RankResult, RankTask} from './rankProgram.ts';
import {startRanks} from './startRanks.ts';

/*
 * Several processes train together over loopback. TensorFlow must be set up; it is in the part of continuous integration
 * that runs tests on it.
 */

const isSetUp = process.env.TFJS_LORA_TEST_BACKENDS?.split(',').includes('tensorflow');
const describeRanks = isSetUp ? describe : describe.skip;
const pathOf = temporaryFolder();

/** Returns the listening sockets of IPv6, which Linux also uses for IPv4. */
const listeners = (): string[] =>
  readFileSync('/proc/net/tcp6', 'utf8')
    .split('\n')
    .filter((line) => / 0A /.test(line));

/** Runs tasks on so many ranks and returns the results of each. */
async function run(size: number, tasks: RankTask[]): Promise<RankResult[][]> {
  const started = await startRanks(Array.from({length: size}, () => tasks));
  const ended = await Promise.all(started.map((rank) => rank.ended));
  for (const {results, text} of ended) if (results.length === 0) throw new Error(text);
  return ended.map(({results}) => results);
}

function expectSameLosses(got: number[], expected: number[]): void {
  expect(got).toHaveLength(expected.length);
  for (const [i, loss] of got.entries()) expect(Math.abs(loss / expected[i] - 1)).toBeLessThan(1e-5);
}

/** Trainings whose steps see 8 examples on any number of ranks. The examples have 3 to 31 tokens. */
const tasksOf = (size: number): RankTask[] => {
  const fit = {batchSize: 1, gradientAccumulationSteps: 8 / size};
  return [
    {name: 'LoRA', fit: {...fit, maxSteps: 30}},
    {name: 'nf4 with dropout', quantized: true, dropout: 0.1, fit: {...fit, epochs: 2}},
    {name: 'packed, by length', packed: true, fit: {...fit, epochs: 2, groupByLength: true}},
  ];
};

describeRanks('ranks', () => {
  test('train as one process does, with the same weights on all', async () => {
    const [alone] = await run(1, tasksOf(1));
    expect(alone.map(({losses}) => losses.length)).toEqual([30, 16, 6]);
    for (const size of [2, 4]) {
      const ranks = await run(size, tasksOf(size));
      for (const [i, {name, losses, evaluation}] of alone.entries()) {
        const got = ranks.map((results) => results[i]);
        expect(got.map(({rank}) => rank)).toEqual([...Array(size).keys()]);
        expectSameLosses(got[0].losses, losses);
        expectSameLosses([got[0].evaluation as number], [evaluation as number]);
        for (const other of got) expect(other).toEqual({...got[0], rank: other.rank, name, size});
      }
    }
  });

  test('end with an error that names a rank that was killed, and resume on another number', async () => {
    const random = seedrandom('ranks');
    const fitOf = (folder: string, size: number) => ({
      batchSize: 2,
      gradientAccumulationSteps: 6 / size,
      maxSteps: 9,
      saveSteps: 2,
      outputDir: pathOf(folder),
      resumeFromCheckpoint: true,
    });
    const [[whole]] = await run(1, [{name: 'whole', fit: fitOf('whole', 1)}]);
    for (const [killed, resumedOn] of [
      [1, 1],
      [0, 3],
    ]) {
      const folder = `killed-${killed}`;
      const step = 4 + Math.floor(4 * random());
      const fault = {rank: killed, step, how: 'kill' as const};
      const started = await startRanks(Array(2).fill([{name: 'killed', fit: fitOf(folder, 2), fault}]));
      const ended = await Promise.all(started.map((rank) => rank.ended));
      expect(ended[killed].signal).toBe('SIGKILL');
      const [{losses, error}] = ended[1 - killed].results;
      expectSameLosses(losses, whole.losses.slice(0, step - 1));
      expect(error).toMatchObject({
        code: 'RANK_LOST',
        message: expect.stringMatching(`got: rank ${killed} \\(127.0.0.1:\\d+\\) has ended`),
      });
      const [[resumed]] = await run(resumedOn, [{name: 'resumed', fit: fitOf(folder, resumedOn)}]);
      const saved = step - 1 - ((step - 1) % 2);
      expectSameLosses(resumed.losses, whole.losses.slice(saved));
      expect(readdirSync(join(pathOf(folder))).sort()).toEqual(readdirSync(pathOf('whole')).sort());
    }
  });

  test('end with an error that names what differs', async () => {
    const task = (maxSteps: number, seeds = [5]) => [
      {name: 'different', seeds, fit: {batchSize: 2, maxSteps}},
    ];
    const started = await startRanks([task(3), task(3), task(4)]);
    const ended = await Promise.all(started.map((rank) => rank.ended));
    for (const {results} of ended)
      expect(results[0].error).toMatchObject({
        code: 'RANKS_DISAGREE',
        message: expect.stringMatching('^rank 2 settings: expected the same as on the other ranks, '),
      });
    for (const [{error}] of await run(2, task(3, [5, 6])))
      expect(error?.message).toMatch(/^rank 1 trained weights: expected the same as on the other ranks, /);
  });

  const onLinux = process.platform === 'linux' ? test : test.skip;
  onLinux('listen on loopback only', async () => {
    const tasks = [{name: 'long', fit: {batchSize: 2, maxSteps: 5000}}];
    const started = await startRanks([tasks, tasks]);
    const [{child, port}] = started;
    const port16 = port.toString(16).toUpperCase().padStart(4, '0');
    let line: string | undefined;
    while (line === undefined && child.exitCode === null) {
      await setTimeout(100);
      line = listeners().find((each) => each.includes(`:${port16} `));
    }
    for (const rank of started) rank.child.kill('SIGKILL');
    await Promise.all(started.map((rank) => rank.ended));
    expect(line).toMatch(/ 0000000000000000FFFF00000100007F:/); // ::ffff:127.0.0.1
  });

  test('wait for one that starts late, and not for one that hangs', async () => {
    const fault = {rank: 1, step: 3, how: 'spin' as const};
    const tasks = [{name: 'late', timeout: 8, fault, fit: {batchSize: 2, maxSteps: 5}}];
    const started = await startRanks([tasks, tasks], {}, [4000, 0]);
    const {results, text} = await started[0].ended;
    if (results.length === 0) throw new Error(text);
    started[1].child.kill('SIGKILL');
    await started[1].ended;
    expect(results[0].losses).toHaveLength(2);
    expect(results[0].error).toMatchObject({
      code: 'RANK_LOST',
      message: expect.stringContaining('got: a rank that did not reach it within 8 s.'),
    });
  });

  test('reduce from host memory on other backends', async () => {
    const tasks: RankTask[] = [
      {name: 'cpu', backend: 'cpu', fit: {batchSize: 1, gradientAccumulationSteps: 2, maxSteps: 3}},
    ];
    const [[alone]] = await run(1, tasks);
    const halves = [{...tasks[0], fit: {...tasks[0].fit, gradientAccumulationSteps: 1}}];
    const [[first], [second]] = await run(2, halves);
    expectSameLosses(first.losses, alone.losses);
    expect(second.adapter).toBe(first.adapter);
  });
});
