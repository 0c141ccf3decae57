import fs from 'node:fs';
import {dirname, join, parse} from 'node:path';
import {makeFolder} from '../../../quant/safetensors/makeFolder.ts';
import {temporaryFolder} from './temporaryFolder.ts';

test('makes a folder and those above it, or finds it', () => {
  const path = join(temporaryFolder(), 'a', 'b', 'c');
  for (let i = 0; i < 2; i++) makeFolder(path);
  expect(fs.existsSync(path)).toBe(true);
  makeFolder(`${path}/`);
  makeFolder('.');
  fs.symlinkSync(path, join(path, 'link'));
  makeFolder(join(path, 'link'));
});

test('throws at once where it cannot be made', () => {
  const path = temporaryFolder();
  fs.writeFileSync(join(path, 'file'), '');
  fs.symlinkSync(join(path, 'nowhere'), join(path, 'link'));
  for (const wrong of ['file', 'file/a', 'link', 'link/a'])
    expect(() => makeFolder(join(path, wrong))).toThrow();
  for (const wrong of ['/proc/tfjs-lora', '/proc/tfjs-lora/a/b']) expect(() => makeFolder(wrong)).toThrow();
});

describe('when a folder cannot be made at first', () => {
  const {mkdirSync} = fs;
  afterEach(() => jest.restoreAllMocks());

  const missing = () => Object.assign(new Error('ENOENT: no such file or directory'), {code: 'ENOENT'});

  test('makes it in those that another process has made meanwhile', () => {
    const path = join(temporaryFolder(), 'a', 'b');
    jest.spyOn(fs, 'mkdirSync').mockImplementationOnce(() => {
      mkdirSync(dirname(path));
      throw missing();
    });
    makeFolder(path);
    expect(fs.statSync(path).isDirectory()).toBe(true);
  });

  test('ends at the root of a drive that is missing', () => {
    jest.spyOn(fs, 'mkdirSync').mockImplementation(() => {
      throw missing();
    });
    jest.spyOn(fs, 'statSync').mockReturnValue(undefined as never);
    jest.spyOn(fs, 'existsSync').mockReturnValue(false);
    expect(() => makeFolder(join(parse(process.cwd()).root, 'a', 'b'))).toThrow('ENOENT');
  });
});
