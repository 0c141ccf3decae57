import {spawnSync} from 'node:child_process';
import {mkdirSync, mkdtempSync, rmSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {dirname, join} from 'node:path';
import {mayHaveGraphicsCard} from '../../../../src/training/backends/graphicsCard.ts';

const ROOT = join(__dirname, '../../../..');
const onLinux = process.platform === 'linux' ? test : test.skip;

onLinux.each([
  [['null', 'tty0'], false],
  [['dri/card0', 'dri/by-path/x'], false], // a display without a graphics card
  [['nvidia-caps/x'], false],
  [['dri/card0', 'dri/renderD128'], true],
  [['nvidia0', 'nvidiactl'], true],
  [['nvidia7'], true],
  [['dxg'], true],
])('%j among the devices: %p', async (names, expected) => {
  const folder = mkdtempSync(join(tmpdir(), 'tfjs-lora-devices-'));
  try {
    for (const name of names) {
      mkdirSync(dirname(join(folder, name)), {recursive: true});
      writeFileSync(join(folder, name), '');
    }
    expect(await mayHaveGraphicsCard(folder)).toBe(expected);
  } finally {
    rmSync(folder, {recursive: true});
  }
});

test('choosing a backend prints no warnings of drivers', () => {
  const code =
    "import {useBackend} from './src/training/backends/useBackend.ts'; console.log(String(await useBackend()))";
  const {status, stdout, stderr} = spawnSync(
    process.execPath,
    ['--import', 'tsx', '--input-type=module', '-e', code],
    {cwd: ROOT, encoding: 'utf8'},
  );
  expect(status).toBe(0);
  const own = stderr.replace(/^WARNING: All log messages before absl.*$/m, ''); // TensorFlow's, where it is set up
  expect(own).not.toMatch(/warning/i);
  expect(stdout).toMatch(/^backend /);
});

test('a card is chosen by its name, once for a process', () => {
  const code = `
    import {useBackend} from './src/training/backends/useBackend.ts';
    const messages = [];
    const refused = async (adapter) => useBackend('webgpu', {adapter}).catch(({message}) => messages.push(message));
    await refused('no such card');
    Object.defineProperty(globalThis, 'navigator', {value: {gpu: {}}, configurable: true});
    await refused('another card');
    console.log(JSON.stringify(messages));
    process.exit();`;
  const {stdout} = spawnSync(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', code], {
    cwd: ROOT,
    encoding: 'utf8',
  });
  expect(JSON.parse(stdout)).toEqual([
    expect.stringMatching(/^backend webgpu: expected WebGPU, got no suitable backends found/),
    expect.stringMatching(
      /^backend webgpu adapter: expected it in the first call of a process in Node, got "another/,
    ),
  ]);
});
