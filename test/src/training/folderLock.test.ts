import {spawn} from 'node:child_process';
import {once} from 'node:events';
import {existsSync, mkdirSync, readdirSync, readFileSync, utimesSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {type FitArgs, Trainer} from '../../../src/index.ts';
import {FolderLock} from '../../../src/training/output/folderLock.ts';
import {compiledScript} from '../../compiledScript.ts';
import {BigramModel} from './bigramModel.ts';
import {temporaryFolder} from './temporaryFolder.ts';

const HOLDER = compiledScript(join(__dirname, 'heldFolder.ts'));
const pathOf = temporaryFolder();

function folderOf(name: string): string {
  mkdirSync(pathOf(name));
  return pathOf(name);
}

const fileIn = (folder: string) => join(folder, '.run.lock');

test('a live process holds a folder, a killed one does not', async () => {
  const folder = folderOf('killed');
  const child = spawn(process.execPath, [HOLDER, folder]);
  await once(child.stdout, 'data');
  const refused = {
    code: 'INVALID_ARGUMENT',
    message: `out: expected a folder that no other run writes to, got one in use by process ${child.pid}. Choose another folder, or wait for it.`,
  };
  expect(() => FolderLock.take(folder, 'out')).toThrow(expect.objectContaining(refused));
  expect(() => FolderLock.assertFree(folder, 'out')).toThrow(expect.objectContaining(refused));
  child.kill('SIGKILL');
  await once(child, 'exit');
  FolderLock.assertFree(folder, 'out');
  expect(existsSync(fileIn(folder))).toBe(true); // it had no time to remove it
  const lock = FolderLock.take(folder, 'out');
  expect(() => FolderLock.take(folder, 'out')).toThrow(`in use by process ${process.pid}`);
  lock.release();
  expect(readdirSync(folder)).toEqual([]);
});

test('a process id that was reused holds nothing', () => {
  const folder = folderOf('reused');
  const lock = FolderLock.take(folder, 'out');
  const holder = JSON.parse(readFileSync(fileIn(folder), 'utf8'));
  lock.release();
  writeFileSync(fileIn(folder), JSON.stringify({...holder, started: 'at another time'}));
  FolderLock.take(folder, 'out').release();
});

test.each([
  [
    'on another machine',
    JSON.stringify({pid: 1, started: '7', system: 'elsewhere'}),
    /process 1 of another system \(elsewhere\)/,
  ],
  ['that was cut off while it was written', '{"pid": 1', /in use by a process/],
])('a lock %s holds while it is young', (what, text, who) => {
  const folder = folderOf(what);
  writeFileSync(fileIn(folder), text);
  expect(() => FolderLock.take(folder, 'out')).toThrow(who);
  expect(() => FolderLock.take(folder, 'out')).toThrow(`if it has ended, remove ${fileIn(folder)}`);
  const tenMinutesAgo = new Date(Date.now() - 600_000);
  utimesSync(fileIn(folder), tenMinutesAgo, tenMinutesAgo);
  FolderLock.take(folder, 'out').release();
});

describe('two runs', () => {
  const examples = [{inputIds: [1, 2, 3]}, {inputIds: [3, 2, 1]}];
  const runOn = (trainer: Trainer, args: FitArgs) =>
    trainer.fit(examples, {batchSize: 1, verbose: 0, ...args});

  test('in one folder: the second is refused, and the first continues', async () => {
    const outputDir = pathOf('two-runs');
    const [first, second] = [new BigramModel('first'), new BigramModel('second')];
    const trainers = [new Trainer(first), new Trainer(second)];
    const refusals: unknown[] = [];
    const {steps} = await runOn(trainers[0], {
      outputDir,
      callbacks: async () => {
        for (const args of [{}, {overwriteOutputDir: true}, {resumeFromCheckpoint: true}] as FitArgs[]) {
          const refusal = runOn(trainers[1], {outputDir, ...args}).catch((error) => error);
          refusals.push(await refusal);
        }
      },
    });
    expect(steps).toHaveLength(2);
    expect(refusals).toHaveLength(6);
    for (const refusal of refusals)
      expect(refusal).toMatchObject({
        code: 'INVALID_ARGUMENT',
        message: expect.stringContaining(
          `fitDataset outputDir ${outputDir}: expected a folder that no other run`,
        ),
      });
    expect(readdirSync(outputDir)).not.toContain('.run.lock');
    await runOn(trainers[1], {outputDir, overwriteOutputDir: true}); // the first has ended
    for (const trainer of trainers) trainer.dispose();
    for (const {table} of [first, second]) table.dispose();
  });

  test('a failed run releases the folder', async () => {
    const outputDir = pathOf('broken');
    const model = new BigramModel();
    const trainer = new Trainer(model);
    const callbacks = () => {
      throw new Error('mine');
    };
    await expect(runOn(trainer, {outputDir, callbacks})).rejects.toThrow('mine');
    expect(readdirSync(outputDir)).not.toContain('.run.lock');
    trainer.dispose();
    model.table.dispose();
  });
});

describe('a folder that cannot be written', () => {
  const model = new BigramModel('unwritable');
  const trainer = new Trainer(model);
  afterAll(() => {
    trainer.dispose();
    model.table.dispose();
  });

  test.each([
    ['is a file', () => pathOf('file'), /expected a folder, got a file, .*file\. Choose another path/],
    [
      'is in a file',
      () => join(pathOf('file'), 'out'),
      /expected a folder, got a file, .*file\. Choose another path/,
    ],
    ['cannot be made', () => '/sys/tfjs-lora', /expected a writable folder, got: /],
    [
      'is where nothing can be created',
      () => '/proc/tfjs-lora/out',
      /\/proc\/tfjs-lora\/out: expected a writable folder, got: /,
    ],
  ])('because it %s is found before any step', async (_what, path, message) => {
    writeFileSync(pathOf('file'), '');
    const run = trainer.fit([{inputIds: [1, 2]}], {outputDir: path(), verbose: 0});
    await expect(run).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: expect.stringMatching(message),
    });
  });
});
