import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import {tmpdir} from 'node:os';
import {dirname, join} from 'node:path';
import {buildAddon} from '../../../../src/tools/setup/buildAddon.ts';
import {checkTensorFlow} from '../../../../src/tools/setup/checkTensorFlow.ts';
import {setupTensorFlow} from '../../../../src/tools/setup/setupTensorFlow.ts';
import {FUSED_OPS_FILE} from '../../../../src/training/backends/fusedOps.ts';
import {fusedOpsSources} from '../../../../src/training/backends/fusedOpsSources.ts';
import {
  SETUP_FILE,
  type TensorFlowSetup,
  tensorflowFolder,
} from '../../../../src/training/backends/tensorflowFolder.ts';
import {runCommandLine} from '../cli/runCommandLine.ts';
import {FakeCompiler, layOutSetup, someAddon} from './fakeTensorFlow.ts';

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

  test('names a folder without TensorFlow, and keeps the earlier set-up', async () => {
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

  test('says that a local folder has no hash, and shows no credentials', async () => {
    const lines: string[] = [];
    const given = join(root, 'http:', '', 'me:un-guessable@host');
    mkdirSync(given, {recursive: true});
    const environment = {HTTPS_PROXY: 'http://me:un-guessable@proxy'};
    const onProgress = (line: string) => lines.push(line);
    const error = await setupTensorFlow({
      ...{folder, from: given, environment, execPath: process.execPath, onProgress},
    }).catch((caught: Error) => caught);
    expect(lines).toEqual([
      expect.stringMatching(/: used as it is; nothing of TensorFlow is downloaded, and there is no hash/),
    ]);
    expect(`${lines} ${(error as Error).message}`).not.toContain('un-guessable');
  });

  test('refuses a version that the installer does not have', async () => {
    await expect(setup({from: 'official', version: '2.21.0'})).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
    });
    expect(existsSync(folder)).toBe(false);
  });

  test('tries the official download, then the wheel, and looks for a compiler before any download', async () => {
    const environment = {CXX: join(root, 'no-compiler'), PATH: root}; // there is no npm either
    const lines: string[] = [];
    const onProgress = (line: string) => lines.push(line);
    await expect(
      setupTensorFlow({folder, environment, execPath: process.execPath, onProgress}),
    ).rejects.toThrow(
      /got:\n {2}official: npm install @tensorflow\/tfjs-node@.*\n {2}wheel: setup tensorflow: expected a C\+\+ compiler/,
    );
    expect(lines).not.toContainEqual(expect.stringContaining('download of tensorflow'));
    expect(lines[0]).toMatch(
      /^official: npm checks packages by the hashes of its registry; the library and the addon that the installer downloads have no hash/,
    );
    expect(readdirSync(root)).toEqual([]);
  });

  test('reports the error of a package that does not load', async () => {
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

    test('names missing headers', async () => {
      const header = join(headers(), 'tensorflow/core/platform/ctstring_internal.h');
      rmSync(header);
      await expect(build({})).rejects.toMatchObject({code: 'FILE_NOT_FOUND'});
      await expect(build({})).rejects.toThrow(
        `${header}: expected a header of TensorFlow, got no such file.`,
      );
    });

    test('says that a compiler is missing', async () => {
      await expect(build({CXX: join(root, 'no-compiler')})).rejects.toThrow(
        'setup tensorflow: expected a C++ compiler, got none of',
      );
    });

    test("reports the compiler's message", async () => {
      const compiler = new FakeCompiler(root, someAddon());
      await expect(build({CXX: compiler.failing('a.cc:1: error: no such type')})).rejects.toThrow(
        'expected the addon of tfjs-node to compile, got: a.cc:1: error: no such type. Pass another --version.',
      );
    });
  });
});

describe('a repeated set-up', () => {
  let root: string;
  let folder: string;
  let compiler: FakeCompiler;
  beforeEach(() => {
    root = mkdtempSync(join(tmpdir(), 'tfjs-lora-setup-'));
    folder = join(root, 'tensorflow');
    compiler = new FakeCompiler(root, someAddon());
  });
  afterEach(() => rmSync(root, {recursive: true}));

  const again = async ({gpu = false, CXX = compiler.path} = {}) => {
    const lines: string[] = [];
    const {fusedOps} = await setupTensorFlow({
      ...{folder, gpu, environment: {CXX}, execPath: process.execPath},
      onProgress: (line) => lines.push(line.replace(/\d+\.\d s$/, '… s')),
    });
    expect(recorded().fusedOps).toEqual(fusedOps);
    return {fusedOps, lines};
  };
  const recorded = (): TensorFlowSetup => JSON.parse(readFileSync(join(folder, SETUP_FILE), 'utf8'));
  const isSetUp = () => `TensorFlow 2.21.0 is already set up in ${folder} and works.`;

  test('compiles the fused ops if their sources changed, and nothing else', async () => {
    layOutSetup(folder, {fusedOps: {sources: 'of an older version'}});
    const {hash} = await fusedOpsSources();
    const {fusedOps, lines} = await again();
    expect(fusedOps).toEqual({sources: hash});
    expect(lines).toEqual([isSetUp(), 'fused ops: compiling …', '  … s']);
    const {length} = compiler.calls;
    expect(length).toBeGreaterThan(1);
    expect(await again()).toEqual({fusedOps, lines: [isSetUp()]});
    expect(compiler.calls).toHaveLength(length);
    expect(recorded()).toMatchObject({package: '@tensorflow/tfjs-node', version: '2.21.0', source: 'wheel'});
  });

  test('compiles the fused ops if they are missing', async () => {
    const {hash} = await fusedOpsSources();
    layOutSetup(folder, {fusedOps: {sources: hash}});
    expect((await again()).lines).toEqual([isSetUp(), 'fused ops: compiling …', '  … s']);
    expect(existsSync(join(folder, FUSED_OPS_FILE))).toBe(true);
  });

  test('compiles the addon again if its own source changed', async () => {
    const {hash} = await fusedOpsSources();
    layOutSetup(folder, {context: 'of an older version', fusedOps: {sources: hash}});
    copyFileSync(someAddon(), join(folder, FUSED_OPS_FILE));
    const output = join(folder, 'lib/napi-v8/addon.node');
    for (const [name, text] of [
      ['tensorflow/include/tensorflow/core/platform/ctstring_internal.h', ''],
      ['node_modules/@mapbox/node-pre-gyp/index.js', `exports.find = () => ${JSON.stringify(output)}`],
    ]) {
      mkdirSync(dirname(join(folder, name)), {recursive: true});
      writeFileSync(join(folder, name), text);
    }
    expect((await again()).lines).toEqual([isSetUp(), 'addon: compiling …', '  … s']);
    expect(recorded().context).toMatch(/^[0-9a-f]{16}$/);
    expect(readFileSync(output).equals(readFileSync(someAddon()))).toBe(true);
    expect(compiler.calls[0]).toContain('-DTFE_NewContext=tfjs_lora_new_context');
    expect((await again()).lines).toEqual([isSetUp()]);
  });

  test('continues without the fused ops if they fail, says so, and tries again the next time', async () => {
    layOutSetup(folder, {fusedOps: {sources: 'of an older version'}});
    const {fusedOps, lines} = await again({CXX: join(root, 'no-compiler')});
    expect(fusedOps).toEqual({missing: expect.stringContaining('expected a C++ compiler')});
    expect(lines.at(-1)).toBe(
      `fused ops: left out; without them, small models take up to twice as long. ${fusedOps?.missing}`,
    );
    expect((await again()).fusedOps?.sources).toBeDefined();
  });

  test('compiles the fused ops of a card, which have more sources', async () => {
    layOutSetup(folder, {
      package: '@tensorflow/tfjs-node-gpu',
      fusedOps: {sources: (await fusedOpsSources()).hash},
    });
    for (const name of ['tensorflow/core/framework/op_kernel.h', 'xla/stream_executor/stream.h']) {
      const path = join(folder, 'tensorflow/include', name);
      mkdirSync(dirname(path), {recursive: true});
      writeFileSync(path, '');
    }
    const {fusedOps, lines} = await again({gpu: true});
    expect(fusedOps).toEqual({sources: (await fusedOpsSources(true)).hash});
    expect(lines).toEqual([isSetUp(), 'fused ops: compiling …', '  … s']);
    expect(await again({gpu: true})).toEqual({fusedOps, lines: [isSetUp()]});
  });

  test('sets TensorFlow up again if the headers for the ops of a card are missing', async () => {
    layOutSetup(folder, {package: '@tensorflow/tfjs-node-gpu'});
    const lines: string[] = [];
    const run = setupTensorFlow({
      ...{folder, gpu: true, environment: {CXX: join(root, 'no-compiler')}, execPath: process.execPath},
      from: 'wheel',
      onProgress: (line) => lines.push(line),
    });
    await expect(run).rejects.toThrow('expected a C++ compiler');
    expect(lines[0]).toMatch(/lacks the headers that fused ops on a card need: setting it up again\.$/);
    expect(recorded().version).toBe('2.21.0');
  });
});

test('its folder is beside TensorFlow.js, where npm does not touch it', async () => {
  const root = join(__dirname, '../../../..');
  expect(await tensorflowFolder()).toBe(join(root, 'node_modules/.tfjs-lora/tensorflow'));
});

test('the command keeps its own --version', async () => {
  const {status, err} = await runCommandLine('setup', 'tensorflow', '--from', 'official', '--version', '1.0');
  expect(status).toBe(2);
  expect(err).toContain(
    'setup tensorflow --version: expected 2.9.1, the only version of the installer, got 1.0.',
  );
});
