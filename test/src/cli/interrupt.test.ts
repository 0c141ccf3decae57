import {type ChildProcess, spawn} from 'node:child_process';
import {once} from 'node:events';
import {mkdtempSync, readdirSync, rmSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {billRecords} from '../../../examples/quickstart/billGenerator.ts';

/*
 * Ctrl-C on a training run, in a process of its own: it finishes its step, saves, and goes on from there when run again.
 */

const root = join(__dirname, '../../..');
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

function train(...overrides: string[]): ChildProcess & {err: () => string} {
  const main = ['--import', 'tsx', join(root, 'src/cli/main.ts'), '--backend', 'wasm', 'train'];
  const child = spawn(process.execPath, [...main, join(folder, 'recipe.yaml'), ...overrides], {
    cwd: root,
    env: {...process.env, HF_HOME: join(folder, 'cache')},
  });
  let err = '';
  child.stderr?.on('data', (text) => {
    err += text;
  });
  child.stdout?.resume();
  return Object.assign(child, {err: () => err});
}

test('Ctrl-C saves, ends with 130, and the run goes on', async () => {
  const child = train();
  await new Promise<void>((resume) =>
    child.stderr?.on('data', (text) => /step \d/.test(String(text)) && resume()),
  );
  child.kill('SIGINT');
  const [status] = await once(child, 'exit');
  expect(child.err()).toContain('Stopping after this step, then saving.');
  expect(status).toBe(130);
  const [checkpoint, ...others] = readdirSync(join(folder, 'run')).filter((name) =>
    name.startsWith('checkpoint-'),
  );
  expect(others).toEqual([]);
  const step = Number(checkpoint.slice('checkpoint-'.length));
  expect(step).toBeGreaterThan(0);

  const again = train(`max_steps=${step + 2}`);
  const [end] = await once(again, 'exit');
  expect({end, err: again.err()}).toMatchObject({end: 0});
  expect(readdirSync(join(folder, 'run'))).toEqual(
    expect.arrayContaining([`checkpoint-${step + 2}`, 'adapter_model.safetensors']),
  );
}, 120_000);
