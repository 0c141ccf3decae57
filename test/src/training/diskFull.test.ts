import {readdirSync, readFileSync} from 'node:fs';
import {join} from 'node:path';
import {DiskFolder} from '../../../quant/folders/diskFolder.ts';
import type {RunFolder} from '../../../quant/folders/runFolder.ts';
import {checkpointFolder, writeCheckpoint} from '../../../src/training/output/checkpointFolder.ts';
import {DiskRunFolder} from '../../../src/training/output/diskRunFolder.ts';
import {LinesFile} from '../../../src/training/output/linesFile.ts';
import {temporaryFolder} from '../../quant/safetensors/temporaryFolder.ts';

/** Number of writes that still succeed before the disk is full. */
let room = Number.POSITIVE_INFINITY;

jest.mock('node:fs', () => {
  const fs = jest.requireActual('node:fs');
  const limited =
    (write: (...args: unknown[]) => unknown) =>
    (...args: unknown[]) => {
      if (room-- > 0) return write(...args);
      throw Object.assign(new Error('ENOSPC: no space left on device, write'), {code: 'ENOSPC'});
    };
  return {...fs, writeSync: limited(fs.writeSync), appendFileSync: limited(fs.appendFileSync)};
});

afterEach(() => {
  room = Number.POSITIVE_INFINITY;
});

const tensor = (value: number) => [
  {name: 'a', dtype: 'F32' as const, shape: [2], data: new Float32Array([value, value])},
];

/** Writes an entry and tensors together. */
const save = (folder: DiskFolder, value: number) =>
  folder.writeTogether('config.json', async (draft) => {
    await draft.writeSafetensors('model.safetensors', tensor(value));
    await draft.write('config.json', `{"value": ${value}}`);
  });

test.each([
  [0, 'model.safetensors'],
  [1, 'model.safetensors'],
  [2, 'config.json'],
])(
  'files that belong together: after %i writes, %s is named and all stay unchanged',
  async (writes, name) => {
    const path = temporaryFolder();
    const folder = new DiskFolder(path);
    await save(folder, 1);
    const before = readdirSync(path).map((file) => [file, readFileSync(join(path, file))]);
    room = writes;
    await expect(save(folder, 2)).rejects.toMatchObject({
      code: 'DISK_FULL',
      message: `${join(path, name)}: expected room on its disk, got none (ENOSPC). An older file of this name is unchanged. Free some space and try again.`,
    });
    expect(readdirSync(path).map((file) => [file, readFileSync(join(path, file))])).toEqual(before);
  },
);

test('a checkpoint: its file and the last whole checkpoint are named', async () => {
  const path = temporaryFolder();
  const outputDir = new DiskRunFolder(path);
  const fill = (folder: RunFolder) => folder.writeSafetensors('weights.safetensors', tensor(1));
  room = 1;
  await expect(writeCheckpoint(outputDir, 4, fill, {})).rejects.toMatchObject({
    code: 'DISK_FULL',
    message: expect.stringContaining('No checkpoint was written before it. Free some space and run again.'),
  });
  expect(readdirSync(path)).toEqual([]);
  room = Number.POSITIVE_INFINITY;
  await writeCheckpoint(outputDir, 4, fill, {});
  room = 1;
  const [whole, full] = [4, 8].map((step) => checkpointFolder(outputDir, step).path);
  await expect(writeCheckpoint(outputDir, 8, fill, {})).rejects.toMatchObject({
    code: 'DISK_FULL',
    message:
      `checkpoint ${full}: expected room for weights.safetensors on its disk, got none (ENOSPC). ` +
      `Nothing of this checkpoint was kept. ${whole} is intact. Free some space and run again to resume from it.`,
  });
  expect(readdirSync(path)).toEqual(['checkpoint-4']);
});

test('a log: the lines so far are kept', async () => {
  const folder = new DiskRunFolder(temporaryFolder());
  const path = folder.pathOf('log.jsonl');
  const log = new LinesFile(folder, 'log.jsonl');
  await log.open(0);
  await log.append('first');
  room = 0;
  await expect(log.append('second')).rejects.toThrow(
    `${path}: expected room on its disk, got none (ENOSPC). What was written so far is intact. Free some space and try again.`,
  );
  expect(readFileSync(path, 'utf8')).toBe('first\n');
});
