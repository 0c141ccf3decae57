import {execFileSync} from 'node:child_process';
import {join} from 'node:path';
import type {Command} from 'commander';
import packageJson from '../../../../package.json';
import {TfjsLoraError} from '../../../../quant/errors.ts';
import {ExitStatus} from '../../../../src/tools/cli/exitStatus.ts';
import {createProgram, statusOf} from '../../../../src/tools/cli/runCli.ts';
import {compiledScript} from '../../../compiledScript.ts';
import {printedBy, runCommandLine} from './runCommandLine.ts';

const root = join(__dirname, '../../../..');
const MAIN = compiledScript(join(root, 'src/tools/cli/main.ts'));

/** Returns the names that lead to each command, such as `setup tensorflow`. */
function commandNames(): string[] {
  const below = (command: Command, path: string[]): string[] =>
    command.commands.flatMap((each) => {
      const own = [...path, each.name()];
      return [own.join(' '), ...below(each, own)];
    });
  return below(createProgram(), []);
}

/** Parses a command line without running it, and returns the names of the command that it would run. */
async function parsedBy(line: string): Promise<string> {
  const [, ...args] = (line.match(/'[^']*'|\S+/g) as string[]).map((word) => word.replaceAll("'", ''));
  const program = createProgram({hasVersionOption: false});
  const ran: string[] = [];
  const stub = (command: Command, path: string[]) => {
    if (command.commands.length === 0) command.action(() => void ran.push(path.join(' ')));
    for (const each of command.commands) stub(each, [...path, each.name()]);
  };
  stub(program, []);
  const end = args.findIndex((word) => /^(>>?)$/.test(word));
  await program.parseAsync(end < 0 ? args : args.slice(0, end), {from: 'user'});
  expect(ran).toHaveLength(1);
  return ran[0];
}

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

  test.each(commandNames())('shows the options of every command and examples: %s --help', async (path) => {
    const {status, out} = await runCommandLine(...path.split(' '), '--help');
    expect(status).toBe(0);
    expect(out).toMatch(/\nGlobal Options:\n +--debug .*\n +--backend <name> /);
    const examples = out
      .split('\nExamples:\n')[1]
      .split('\n')
      .filter((line) => line.startsWith('  tfjs-lora '));
    expect(examples.length).toBeGreaterThan(0);
    for (const example of examples) expect(await parsedBy(example.trim())).toContain(path);
  });

  test('uses colours where NO_COLOR and FORCE_COLOR allow them', async () => {
    const {NO_COLOR, FORCE_COLOR} = process.env;
    const printed = async (variables: object) => {
      delete process.env.NO_COLOR;
      delete process.env.FORCE_COLOR;
      Object.assign(process.env, variables);
      const [help, mistake, missing] = [
        await runCommandLine('train', '--help'),
        await runCommandLine('tran'),
        await runCommandLine('export', 'missing.yaml'),
      ];
      return [help.out, mistake.err, missing.err].map((text) => text.match(/\x1b\[\d+m/g));
    };
    try {
      expect(await printed({FORCE_COLOR: '1'})).toEqual([
        expect.arrayContaining(['\x1b[1m', '\x1b[22m']),
        ['\x1b[31m', '\x1b[39m'],
        ['\x1b[31m', '\x1b[39m'],
      ]);
      expect(await printed({})).toEqual([null, null, null]); // the output is no terminal
      expect(await printed({FORCE_COLOR: '1', NO_COLOR: '1'})).toEqual([null, null, null]);
    } finally {
      Object.assign(process.env, {NO_COLOR: NO_COLOR ?? '', FORCE_COLOR: FORCE_COLOR ?? ''});
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

test.each([
  [['merge'], 'Use export.'],
  [
    ['train', 'recipe.yaml', '--lora-rank', '4'],
    'Write it after the recipe, without dashes: lora_rank=<value>.',
  ],
  [
    ['train', 'recipe.yaml', '--epochs', '1'],
    'Write it after the recipe, without dashes: num_train_epochs=<value>.',
  ],
  [
    ['chat', 'model', '--adapter', 'a'],
    'Write it after the model, without dashes: adapter_name_or_path=<value>.',
  ],
  [['--dry-run', 'train', 'recipe.yaml'], 'Write it after its command: train … --dry-run.'],
  [['finetune', 'recipe.yaml'], 'Use train, with a recipe.'],
])('a name of other libraries names ours: %s', async (args, advice) => {
  const {status, err} = await runCommandLine(...args);
  expect(status).toBe(2);
  expect(err.split('\n')[1]).toBe(advice);
});

test('a recipe key as an option of a command without a recipe gets no advice', async () => {
  const {status, err} = await runCommandLine('doctor', '--template', 'llama3');
  expect({status, err}).toMatchObject({status: 2, err: expect.not.stringContaining('recipe')});
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

  test('quantize names the methods that are only read from files', async () => {
    const {status, err} = await runCommandLine('quantize', 'model', 'folder', '--type', 'gptq');
    expect(status).toBe(2);
    expect(err).toContain(
      'quantization --type: expected nf4, fp4, int8 or a quantizer of your own, got gptq',
    );
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
  const report = JSON.parse(
    execFileSync(process.execPath, [MAIN, 'doctor', '--json'], {cwd: root, encoding: 'utf8'}),
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
