import {type ChildProcess, spawn} from 'node:child_process';
import {once} from 'node:events';
import {readdirSync, readFileSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {billRecords} from '../../../../examples/quickstart/billGenerator.ts';
import {processCount, processesToStart} from '../../../../src/tools/cli/processCount.ts';
import {compiledScript} from '../../../compiledScript.ts';
import {temporaryFolder} from '../../training/temporaryFolder.ts';

/* `train --processes`: the ranks that it starts, as their user sees them. */

const root = join(__dirname, '../../../..');
const MAIN = compiledScript(join(root, 'src/tools/cli/main.ts'));
const pathOf = temporaryFolder();
const isSetUp = process.env.TFJS_LORA_TEST_BACKENDS?.split(',').includes('tensorflow');

test('the number of processes is the given one, or that of the visible cards', async () => {
  expect(() => processCount('0')).toThrow('Expected a number of processes, or auto.');
  expect(await processesToStart(undefined, {})).toBe(1);
  expect(await processesToStart(3, {CUDA_VISIBLE_DEVICES: '0'})).toBe(3);
  expect(await processesToStart('auto', {CUDA_VISIBLE_DEVICES: '0,2'})).toBe(2);
  expect(await processesToStart('auto', {CUDA_VISIBLE_DEVICES: ''})).toBe(1);
  expect(await processesToStart(undefined, {FORCE_TORCHRUN: '1', NPROC_PER_NODE: '4'})).toBe(4);
  expect(await processesToStart(undefined, {FORCE_TORCHRUN: 'true', CUDA_VISIBLE_DEVICES: '1,2'})).toBe(2);
});

interface Run {
  child: ChildProcess;
  out: string;
  err: string;
}

function train(output: string, ...overrides: string[]): Run {
  const args = [MAIN, '--backend', 'tensorflow', 'train'];
  const env = {...process.env, HF_HOME: pathOf('cache'), OMP_NUM_THREADS: '1', npm_command: ''};
  const child = spawn(
    process.execPath,
    [...args, pathOf('recipe.yaml'), '--processes', '2', `output_dir=${pathOf(output)}`, ...overrides],
    {cwd: root, env},
  );
  const run: Run = {child, out: '', err: ''};
  child.stdout.on('data', (text) => {
    run.out += text;
  });
  child.stderr.on('data', (text) => {
    run.err += text;
  });
  return run;
}

/** Resolves when a run has shown its first step. */
const hasBegun = ({child, err}: Run): Promise<void> =>
  new Promise((resolve) => {
    let text = err;
    child.stderr?.on('data', (data) => {
      text += data;
      if (/^step \d/m.test(text)) resolve();
    });
  });

/** Returns the ids of a process's children that run this program. */
const ranksOf = ({pid}: ChildProcess): number[] =>
  readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ').map(Number);

const end = async ({child}: Run): Promise<number> => (await once(child, 'close'))[0];

const describeRanks = isSetUp && process.platform === 'linux' ? describe : describe.skip;
describeRanks('train --processes', () => {
  beforeAll(() => {
    writeFileSync(pathOf('bills.json'), JSON.stringify(billRecords('train', 13)));
    writeFileSync(pathOf('dataset_info.json'), JSON.stringify({bills: {file_name: 'bills.json'}}));
    const keys = {
      model_name_or_path: join(root, 'examples/quickstart/model'),
      do_train: true,
      dataset: 'bills',
      dataset_dir: pathOf('.'),
      template: 'llama3',
      cutoff_len: 48,
      per_device_train_batch_size: 1,
      max_steps: 2000,
    };
    writeFileSync(pathOf('recipe.yaml'), JSON.stringify(keys)); // JSON is YAML
  });

  test('saves after Ctrl-C, and resumes, predicts and evaluates on all ranks', async () => {
    const run = train('stopped');
    await hasBegun(run);
    run.child.kill('SIGINT');
    expect({status: await end(run), err: run.err}).toMatchObject({status: 130});
    expect(run.out).toContain('2,000 of 1 × 1 × 2 ranks examples, 7 an epoch');
    const saved = readdirSync(pathOf('stopped')).filter((name) => name.startsWith('checkpoint-'));
    expect(saved).toHaveLength(1);
    expect(run.out).toContain(
      `stopped; ${pathOf(join('stopped', saved[0]))} is saved\n  To resume: tfjs-lora `,
    );
    const step = Number(saved[0].slice('checkpoint-'.length));
    const last = train(
      'stopped',
      ...[
        'resume_from_checkpoint=true',
        `max_steps=${step + 2}`,
        'eval_dataset=bills',
        'eval_strategy=epoch',
      ],
      ...['do_predict=true', 'predict_with_generate=true', 'max_new_tokens=3'],
    );
    expect({status: await end(last), err: last.err}).toMatchObject({status: 0});
    const answers = readFileSync(pathOf('stopped/generated_predictions.jsonl'), 'utf8').trim().split('\n');
    expect(answers).toHaveLength(13);
    expect(last.out.match(/^eval_loss /gm)).toHaveLength(1);
  }, 240_000);

  test('ends all ranks when one is killed, and names it', async () => {
    const run = train('killed');
    await hasBegun(run);
    const [, second] = ranksOf(run.child);
    process.kill(second, 'SIGKILL');
    expect(await end(run)).toBe(1);
    expect(run.err).toContain('rank 1 was killed by SIGKILL, maybe because memory ran out. All ranks end');
    expect(() => process.kill(second, 0)).toThrow('ESRCH');
  }, 240_000);
});
