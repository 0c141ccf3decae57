import {mkdtempSync, readFileSync, rmSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {ZipFile} from '../../../src/data/datasets/zipFile.ts';
import {zipOf} from './zipOf.ts';

describe('a zip archive', () => {
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'tfjs-lora-zip-'));
  });
  afterEach(() => rmSync(folder, {recursive: true}));

  test('returns its members, stored and deflated', async () => {
    const long = 'tensor '.repeat(50_000);
    const path = join(folder, 'a.whl');
    writeFileSync(
      path,
      zipOf([
        {name: 'a/stored.txt', text: 'as it is', isStored: true},
        {name: 'a/long.txt', text: long},
        {name: 'empty', text: '', isStored: true},
      ]),
    );
    const zip = await ZipFile.open(path);
    expect(zip.names).toEqual(['a/stored.txt', 'a/long.txt', 'empty']);
    expect(await zip.text('a/stored.txt')).toBe('as it is');
    expect(await zip.text('empty')).toBe('');
    await zip.extract('a/long.txt', join(folder, 'x/y/long.txt'));
    expect(readFileSync(join(folder, 'x/y/long.txt'), 'utf8')).toBe(long);
    await expect(zip.text('b')).rejects.toThrow(`${path}: expected a member b, got none`);
    await zip.close();
  });

  test('is refused if it is truncated, or not a zip archive', async () => {
    const path = join(folder, 'a.whl');
    writeFileSync(path, 'not a zip file at all, but long enough to hold one');
    await expect(ZipFile.open(path)).rejects.toMatchObject({code: 'CORRUPT_FILE'});
    const whole = zipOf([{name: 'a', text: 'hello'.repeat(100)}]);
    writeFileSync(path, whole.subarray(0, whole.length - 30));
    await expect(ZipFile.open(path)).rejects.toThrow('expected a zip archive, got no directory at its end');
  });
});
