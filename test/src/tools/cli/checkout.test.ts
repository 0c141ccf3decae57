import {spawnSync} from 'node:child_process';
import {copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';

const BIN = join(__dirname, '../../../../bin/tfjs-lora.js');
const folder = mkdtempSync(join(tmpdir(), 'tfjs-lora-checkout-'));
afterAll(() => rmSync(folder, {recursive: true}));

test('the command says how to build a checkout, and starts in a built one', () => {
  mkdirSync(join(folder, 'bin'));
  copyFileSync(BIN, join(folder, 'bin/tfjs-lora.js'));
  writeFileSync(join(folder, 'package.json'), '{"type": "module"}');
  const run = () =>
    spawnSync(process.execPath, [join(folder, 'bin/tfjs-lora.js'), 'train'], {encoding: 'utf8'});
  expect(run()).toMatchObject({status: 2, stderr: expect.stringContaining('Run npm run build')});
  mkdirSync(join(folder, 'dist/cli'), {recursive: true});
  writeFileSync(join(folder, 'dist/cli/main.js'), 'console.log(process.argv[2]);');
  expect(run()).toMatchObject({status: 0, stdout: 'train\n'});
});
