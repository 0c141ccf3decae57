import {spawn} from 'node:child_process';
import {existsSync, mkdtempSync, readdirSync, readFileSync, rmSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import seedrandom from 'seedrandom';
import {compiledScript} from '../../compiledScript.ts';

const SCRIPT = compiledScript(join(__dirname, 'killedRun.ts'));
const SEED = 'kill';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'tfjs-lora-kill-'));
});
afterAll(() => rmSync(folder, {recursive: true, force: true}));

interface Ending {
  signal: string | null;
  code: number | null;
  text: string;
}

/**
 * Runs until the end, its own death at a change of a file, or being killed so many milliseconds after its first step.
 */
function runChild(
  output: string,
  {dieAt = 0, killAfter}: {dieAt?: number; killAfter?: number} = {},
): Promise<Ending> {
  const losses = lossesOf(output);
  const before = existsSync(losses) ? readFileSync(losses).length : 0;
  const child = spawn(process.execPath, [SCRIPT, output, losses, String(dieAt)]);
  let text = '';
  child.stdout.on('data', (data) => {
    text += data;
  });
  child.stderr.on('data', (data) => {
    text += data;
  });
  const watch =
    killAfter !== undefined &&
    setInterval(() => {
      if (!existsSync(losses) || readFileSync(losses).length === before) return;
      clearInterval(watch as NodeJS.Timeout);
      setTimeout(() => child.kill('SIGKILL'), killAfter);
    }, 5);
  return new Promise((resolve) => {
    child.on('close', (code, signal) => {
      if (watch) clearInterval(watch);
      resolve({code, signal, text});
    });
  });
}

const lossesOf = (output: string) => `${output}.losses`;

/** Step → the bits of its loss, as often as the step was done. */
function readLosses(output: string): Map<number, string[]> {
  const losses = new Map<number, string[]>();
  for (const line of readFileSync(lossesOf(output), 'utf8').trim().split('\n')) {
    const [step, bits] = line.split(' ');
    losses.set(Number(step), [...(losses.get(Number(step)) ?? []), bits]);
  }
  return losses;
}

/** Returns the log without values that depend on time. */
function readLog(output: string) {
  const {log_history} = JSON.parse(readFileSync(join(output, 'trainer_state.json'), 'utf8'));
  return log_history.map((entry: Record<string, number>) =>
    Object.fromEntries(Object.entries(entry).filter(([name]) => !/runtime|per_second/.test(name))),
  );
}

const readLines = (output: string) =>
  readFileSync(join(output, 'trainer_log.jsonl'), 'utf8')
    .trim()
    .split('\n')
    .map((line) => {
      const {current_steps, loss, eval_loss, lr, epoch, total_tokens} = JSON.parse(line);
      return {current_steps, loss, eval_loss, lr, epoch, total_tokens};
    });

test('a run that is killed repeatedly has the same losses, bit for bit, as one that was not', async () => {
  const [whole, killed] = [join(folder, 'whole'), join(folder, 'killed')];
  const undisturbed = runChild(whole);
  const random = seedrandom(SEED);
  const endings: Ending[] = [];
  for (let kill = 0; kill < 3; kill++)
    endings.push(await runChild(killed, {dieAt: 60 + Math.floor(120 * random())}));
  expect(endings.map(({signal}) => signal)).toEqual(new Array(3).fill('SIGKILL'));
  // At any time, not only at a change of a file. On a busy machine the run may have ended before.
  const timed = await runChild(killed, {killAfter: 400 * random()});
  expect([timed.signal, timed.code]).toEqual(timed.signal ? ['SIGKILL', null] : [null, 0]);
  const last = await runChild(killed);
  expect(last).toMatchObject({code: 0});
  expect(await undisturbed).toMatchObject({code: 0});

  const [expected, got] = [readLosses(whole), readLosses(killed)];
  expect([...expected.keys()]).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9]);
  expect([...got.keys()].sort()).toEqual([...expected.keys()]);
  for (const [step, bits] of got) expect([step, ...new Set(bits)]).toEqual([step, ...expected.get(step)!]);
  expect([...got.values()].flat().length).toBeGreaterThan(9); // some steps were lost and done again

  for (const file of ['adapter_model.safetensors', 'checkpoint-9/optimizer.safetensors'])
    expect(readFileSync(join(killed, file)).equals(readFileSync(join(whole, file)))).toBe(true);
  expect(readLog(killed)).toEqual(readLog(whole));
  expect(readLines(killed)).toEqual(readLines(whole));
  expect(readdirSync(killed).filter((name) => name.startsWith('.'))).toEqual([]);
  const texts = [...endings, last].map(({text}) => text).join('');
  expect(texts).toMatch(/\.checkpoint-\d+\.[\w-]+\.tmp is incomplete and was skipped/); // at least one kill hit the saving
}, 300_000);
