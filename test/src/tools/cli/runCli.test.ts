import {execFileSync} from 'node:child_process';
import {join} from 'node:path';
import packageJson from '../../../../package.json';
import {TfjsLoraError} from '../../../../quant/errors.ts';
import {ExitStatus} from '../../../../src/tools/cli/exitStatus.ts';
import {createProgram, statusOf} from '../../../../src/tools/cli/runCli.ts';
import {printedBy, runCommandLine} from './runCommandLine.ts';

describe('the command line', () => {
  test('shows its version and help with status 0', async () => {
    expect(await runCommandLine('--version')).toEqual({status: 0, out: `${packageJson.version}\n`, err: ''});
    const {status, out} = await runCommandLine('--help');
    expect(status).toBe(0);
    for (const {name, summary} of createProgram().commands.map((command) => ({
      name: command.name(),
      summary: command.description(),
    }))) {
      expect(out).toContain(name);
      expect(summary).not.toBe('');
    }
  });

  test.each([
    ['unknown command', ['tran']],
    ['unknown option', ['doctor', '--jsn']],
  ])('ends with 2 on an %s, and says what was meant', async (what, args) => {
    const {status, out, err} = await runCommandLine(...args);
    expect(status).toBe(2);
    expect(out).toBe('');
    expect(err).toContain(`error: ${what}`);
    expect(err).toContain('--help');
  });
});

describe('--import', () => {
  test.each(['./no-extension.js', 'no-such-extension'])(
    'names a module that is missing: %s',
    async (module) => {
      const {status, out, err} = await runCommandLine('chat', 'no-model', '--import', module);
      expect({status, out}).toEqual({status: 2, out: ''});
      expect(err).toMatch(/^--import \S+: expected a module that Node imports, .*, got Error: Cannot find /);
      expect(err).toContain(`--import ${module}: `);
    },
  );
});

describe('the status of an error', () => {
  async function reported(error: unknown, debug = false): Promise<{status: number; text: string}> {
    const {result: status, err} = await printedBy(() => statusOf(error, debug));
    return {status, text: err.trimEnd()};
  }

  test("is 2 for a user's mistake, with the message alone", async () => {
    const error = new TfjsLoraError('INVALID_CONFIG', 'recipe.yaml:1:1 x: expected y, got z');
    expect(await reported(error)).toEqual({status: 2, text: 'recipe.yaml:1:1 x: expected y, got z'});
    const missing = Object.assign(new Error('ENOSPC: no space left on device, write'), {code: 'ENOSPC'});
    expect(await reported(missing)).toEqual({status: 2, text: missing.message});
  });

  test('is 1 for an internal error, which is called a bug', async () => {
    const {status, text} = await reported(new TypeError('x is not a function'));
    expect(status).toBe(1);
    expect(text).toBe(
      'tfjs-lora failed: x is not a function\nThis is a bug in tfjs-lora; --debug shows the stack.',
    );
  });

  test('comes with the stack under --debug', async () => {
    expect((await reported(new TypeError('broken'), true)).text).toContain(`TypeError: broken\n    at `);
    expect((await reported(new TfjsLoraError('UNSUPPORTED', 'no'), true)).text).toContain(
      'TfjsLoraError: no\n    at ',
    );
  });

  test("can be the command's own", async () => {
    expect(await reported(new ExitStatus(130))).toEqual({status: 130, text: ''});
  });
});

test('doctor tries every backend in a separate process', () => {
  const root = join(__dirname, '../../../..');
  const main = ['--import', 'tsx', join(root, 'src/tools/cli/main.ts')];
  const report = JSON.parse(
    execFileSync(process.execPath, [...main, 'doctor', '--json'], {cwd: root, encoding: 'utf8'}),
  );
  expect(report).toMatchObject({version: packageJson.version, node: process.version});
  const backends = new Map(
    (report.backends as {backend: string; available: boolean; text: string}[]).map((entry) => [
      entry.backend,
      entry,
    ]),
  );
  expect([...backends.keys()]).toEqual(['webgpu', 'tensorflow', 'wasm', 'cpu']);
  expect(backends.get('cpu')).toMatchObject({available: true});
  expect(backends.get('wasm')).toMatchObject({available: true, text: expect.stringContaining('simd')});
  for (const {available, backend, text} of backends.values()) {
    if (!available) expect(text).toMatch(new RegExp(`^backend ${backend}: expected |^crashed `));
  }
  expect(report.packages['@tensorflow/tfjs']).toBe(packageJson.devDependencies['@tensorflow/tfjs']);
}, 120_000);
