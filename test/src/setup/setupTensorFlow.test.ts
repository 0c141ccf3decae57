import {existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {SETUP_FILE, tensorflowFolder} from '../../../src/backends/tensorflowFolder.ts';
import {buildAddon} from '../../../src/setup/buildAddon.ts';
import {checkTensorFlow, setupTensorFlow} from '../../../src/setup/setupTensorFlow.ts';
import {runCommandLine} from '../cli/runCommandLine.ts';

describe('setupTensorFlow', () => {
  let root: string;
  let folder: string;
  beforeEach(() => {
    root = mkdtempSync(join(tmpdir(), 'tfjs-lora-setup-'));
    folder = join(root, 'tensorflow');
  });
  afterEach(() => rmSync(root, {recursive: true}));
  const setup = (options: {from?: string; version?: string}) =>
    setupTensorFlow({folder, environment: {}, execPath: process.execPath, ...options});

  test('names a folder without TensorFlow, and leaves what was set up', async () => {
    mkdirSync(folder);
    const before = {package: '@tensorflow/tfjs-node', version: '2.9.1', source: 'official'};
    writeFileSync(join(folder, SETUP_FILE), JSON.stringify(before));
    const empty = join(root, 'empty');
    mkdirSync(empty);
    await expect(setup({from: empty})).rejects.toMatchObject({code: 'FILE_NOT_FOUND'});
    await expect(setup({from: empty})).rejects.toThrow(
      `setup tensorflow --from ${empty}: expected an unpacked libtensorflow`,
    );
    expect(readdirSync(root).sort()).toEqual(['empty', 'tensorflow']);
    expect(JSON.parse(readFileSync(join(folder, SETUP_FILE), 'utf8'))).toEqual(before);
  });

  test('refuses a version that the installer does not have', async () => {
    await expect(setup({from: 'official', version: '2.21.0'})).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
    });
    expect(existsSync(folder)).toBe(false);
  });

  test('a package that does not load is told by what it said', async () => {
    const fake = join(folder, 'node_modules/@tensorflow/tfjs-node');
    mkdirSync(fake, {recursive: true});
    writeFileSync(
      join(fake, 'index.js'),
      "throw new Error('libtensorflow.so.2: cannot open shared object file')",
    );
    await expect(checkTensorFlow(folder, '@tensorflow/tfjs-node', process.execPath)).rejects.toThrow(
      '@tensorflow/tfjs-node: expected a product, got: Error: libtensorflow.so.2: cannot open shared object file',
    );
  });

  test('names missing headers', async () => {
    const library = {files: [], headers: join(root, 'include'), isMovedAlong: true};
    await expect(buildAddon(folder, library, {})).rejects.toMatchObject({code: 'FILE_NOT_FOUND'});
  });

  describe('with a package to build', () => {
    const headers = () => join(root, 'include');
    beforeEach(() => {
      mkdirSync(join(headers(), 'tensorflow/core/platform'), {recursive: true});
      writeFileSync(join(headers(), 'tensorflow/core/platform/ctstring_internal.h'), '');
      for (const [name, code] of [
        ['@mapbox/node-pre-gyp', `exports.find = () => ${JSON.stringify(join(root, 'lib/napi-v8/a.node'))}`],
        ['node-api-headers', 'exports.include_dir = "/nowhere"'],
      ]) {
        mkdirSync(join(root, 'node_modules', name), {recursive: true});
        writeFileSync(join(root, 'node_modules', name, 'index.js'), code);
      }
      writeFileSync(join(root, 'package.json'), '{}');
    });
    const build = (environment: Record<string, string>) =>
      buildAddon(root, {files: [join(root, 'libx.so')], headers: headers(), isMovedAlong: true}, environment);

    test('asks for a compiler', async () => {
      await expect(build({CXX: join(root, 'no-compiler')})).rejects.toThrow(
        'setup tensorflow: expected a C++ compiler, got none of',
      );
    });

    test('tells what the compiler says', async () => {
      const compiler = join(root, 'compiler');
      writeFileSync(
        compiler,
        '#!/bin/sh\necho "note: nothing" >&2\necho "a.cc:1: error: no such type" >&2\nexit 1\n',
        {
          mode: 0o755,
        },
      );
      await expect(build({CXX: compiler})).rejects.toThrow(
        'expected the addon of tfjs-node to compile, got: a.cc:1: error: no such type. Pass another --version.',
      );
    });
  });
});

test('it goes beside TensorFlow.js, out of the way of npm', async () => {
  const root = join(__dirname, '../../..');
  expect(await tensorflowFolder()).toBe(join(root, 'node_modules/.tfjs-lora/tensorflow'));
});

test('the command keeps its own --version', async () => {
  const {status, err} = await runCommandLine('setup', 'tensorflow', '--from', 'official', '--version', '1.0');
  expect(status).toBe(2);
  expect(err).toContain(
    'setup tensorflow --version: expected 2.9.1, which is all the installer has, got 1.0.',
  );
});
