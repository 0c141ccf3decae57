import {type ChildProcess, spawn} from 'node:child_process';
import {once} from 'node:events';
import {mkdtempSync, readdirSync, rmSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {billRecords} from '../../../../examples/quickstart/billGenerator.ts';
import {compiledScript} from '../../../compiledScript.ts';

/*
 * Signals to a run in a separate process: it finishes its step, saves, names the command that resumes it, and resumes
 * with that command.
 */

const root = join(__dirname, '../../../..');
const MAIN = compiledScript(join(root, 'src/tools/cli/main.ts'));
const folder = mkdtempSync(join(tmpdir(), 'tfjs-lora-interrupt-'));

beforeAll(() => {
  writeFileSync(join(folder, 'bills.json'), JSON.stringify(billRecords('train', 6)));
  writeFileSync(join(folder, 'dataset_info.json'), JSON.stringify({bills: {file_name: 'bills.json'}}));
  const keys = {
    model_name_or_path: join(root, 'examples/quickstart/model'),
    do_train: true,
    dataset: 'bills',
    dataset_dir: folder,
    template: 'llama3',
    cutoff_len: 64,
    per_device_train_batch_size: 1,
    max_steps: 1000,
    output_dir: join(folder, 'run'),
  };
  writeFileSync(join(folder, 'recipe.yaml'), JSON.stringify(keys)); // JSON is YAML
});
afterAll(() => rmSync(folder, {recursive: true}));

interface Run extends ChildProcess {
  out(): string;
  err(): string;
}

function run(...args: string[]): Run {
  const child = spawn(process.execPath, [MAIN, ...args], {
    cwd: root,
    env: {...process.env, HF_HOME: join(folder, 'cache'), npm_command: ''},
  });
  const texts = {out: '', err: ''};
  child.stdout?.on('data', (text) => {
    texts.out += text;
  });
  child.stderr?.on('data', (text) => {
    texts.err += text;
  });
  return Object.assign(child, {out: () => texts.out, err: () => texts.err});
}

const train = (...overrides: string[]) =>
  run('--backend', 'wasm', 'train', join(folder, 'recipe.yaml'), ...overrides);

/** Resolves when the output of a run matches. */
function written(child: Run, stream: 'stdout' | 'stderr', pattern: RegExp): Promise<void> {
  const text = stream === 'stdout' ? child.out : child.err;
  return new Promise((resolve) => child[stream]?.on('data', () => pattern.test(text()) && resolve()));
}

async function end(child: Run): Promise<number | null> {
  const [status] = await once(child, 'close');
  return status;
}

const checkpointsIn = (output: string) =>
  readdirSync(output).filter((name) => name.startsWith('checkpoint-'));

test.each(['SIGINT', 'SIGTERM', 'SIGHUP'] as const)(
  '%s saves, ends with status 130, and names the command that resumes',
  async (signal) => {
    const output = join(folder, signal);
    const given = [`output_dir=${output}`, 'overwrite_output_dir=true'];
    const child = train(...given);
    await written(child, 'stderr', /step \d/);
    child.kill(signal);
    child.kill(signal); // npm also forwards the signal that the terminal has already sent
    const status = await end(child);
    expect(child.err()).toContain('Stopping after this step, then saving.');
    expect(status).toBe(130);
    const [checkpoint, ...others] = checkpointsIn(output);
    expect(others).toEqual([]);
    const step = Number(checkpoint.slice('checkpoint-'.length));
    expect(step).toBeGreaterThan(0);
    expect(child.out()).toContain(`stopped; ${join(output, checkpoint)} is saved\n  To resume: tfjs-lora `);

    const same = train(...given);
    expect(await end(same)).toBe(2); // neither removed nor resumed by default
    expect(same.err()).toContain(
      `expected no unfinished run in it, got ${checkpoint}.\n  To resume: tfjs-lora `,
    );
    expect(checkpointsIn(output)).toEqual([checkpoint]);

    const command = /To resume: tfjs-lora (.*)/.exec(child.out())?.[1] as string;
    expect(same.err()).toContain(`To resume: tfjs-lora ${command}\n`);
    const again = run(...command.split(' '), `max_steps=${step + 2}`);
    expect({status: await end(again), err: again.err()}).toMatchObject({status: 0});
    expect(again.out()).toContain(`resumes from   ${join(output, checkpoint)}\n`);
    expect(readdirSync(output)).toEqual(
      expect.arrayContaining([`checkpoint-${step + 2}`, 'adapter_model.safetensors']),
    );
  },
  240_000,
);

test('before the first step nothing is written, and the same command starts again', async () => {
  const output = join(folder, 'early');
  const child = train(`output_dir=${output}`);
  await written(child, 'stdout', /^output /m); // the plan's last line
  child.kill('SIGINT');
  expect(await end(child)).toBe(130);
  // If the signal was delivered late, a step may have been done.
  const message = /stopped before the first step; nothing was written|stopped; .*checkpoint-\d+ is saved/;
  expect(child.out()).toMatch(message);
  expect(`${child.out()}${child.err()}`).not.toContain('undefined');
  const again = train(`output_dir=${output}`, 'max_steps=1');
  expect({status: await end(again), err: again.err()}).toMatchObject({status: 0});
}, 240_000);

test('a prediction stops after the current token', async () => {
  const output = join(folder, 'predicted');
  const keys = ['do_train=false', 'do_predict=true', 'predict_with_generate=true', 'val_size=4'];
  const child = train(...keys, 'max_new_tokens=400', 'cutoff_len=100', `output_dir=${output}`);
  await written(child, 'stdout', /^output /m);
  child.kill('SIGINT');
  expect(await end(child)).toBe(130);
  expect(child.out()).toMatch(
    /stopped (before the start|in the prediction); nothing was written\n {2}To start again: /,
  );
  expect(readdirSync(folder).includes('predicted') ? readdirSync(output) : []).toEqual([]);
}, 240_000);
