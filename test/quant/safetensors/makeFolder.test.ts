import {existsSync, symlinkSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {makeFolder} from '../../../quant/safetensors/makeFolder.ts';
import {temporaryFolder} from './temporaryFolder.ts';

test('makes a folder and those above it, or finds it', () => {
  const path = join(temporaryFolder(), 'a', 'b', 'c');
  for (let i = 0; i < 2; i++) makeFolder(path);
  expect(existsSync(path)).toBe(true);
  makeFolder(`${path}/`);
  makeFolder('.');
  symlinkSync(path, join(path, 'link'));
  makeFolder(join(path, 'link'));
});

test('throws at once where it cannot be made', () => {
  const path = temporaryFolder();
  writeFileSync(join(path, 'file'), '');
  symlinkSync(join(path, 'nowhere'), join(path, 'link'));
  for (const wrong of ['file', 'file/a', 'link', 'link/a'])
    expect(() => makeFolder(join(path, wrong))).toThrow();
  for (const wrong of ['/proc/tfjs-lora', '/proc/tfjs-lora/a/b']) expect(() => makeFolder(wrong)).toThrow();
});
