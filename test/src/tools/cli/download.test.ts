import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {FakeHub} from '../../data/hub/fakeHub.ts';
import {runCommandLine} from './runCommandLine.ts';

/* Runs `tfjs-lora download` against a hub on the loopback interface, which the environment names. */

const weights = Buffer.from(Array.from({length: 100_000}, (_, i) => (i * 7) % 251));
const files = {
  'config.json': '{}',
  'model.safetensors': weights,
  'tokenizer.json': '{"version": "1.0"}',
  'tokenizer_config.json': '{"bos_token": null}',
};
const names = Object.keys(files);
let hub: FakeHub;
let root: string;
const before = {...process.env};

beforeEach(async () => {
  hub = new FakeHub([
    {
      kind: 'model',
      id: 'org/tiny',
      commit: 'c'.repeat(40),
      files,
      large: ['model.safetensors'],
      token: 'secret',
    },
  ]);
  root = mkdtempSync(join(tmpdir(), 'download-'));
  Object.assign(process.env, {
    HF_ENDPOINT: await hub.start(),
    HF_HUB_CACHE: join(root, 'cache'),
    HF_TOKEN: 'secret',
  });
});

afterEach(async () => {
  await hub.stop();
  rmSync(root, {recursive: true});
  process.env = {...before};
});

test('puts the model into a folder, resumes a broken download, and shows its progress', async () => {
  hub.breakAfter = 30_000;
  hub.breaks = names.length;
  const folder = join(root, 'tiny');
  const {status, out, err} = await runCommandLine('download', 'org/tiny', folder);
  expect([status, out]).toEqual([0, `${folder}\n`]);
  expect(readdirSync(folder).sort()).toEqual(names);
  for (const [name, content] of Object.entries(files)) {
    expect(readFileSync(join(folder, name)).equals(Buffer.from(content))).toBe(true);
  }
  expect(hub.requests.some((request) => request.endsWith('bytes=30000-'))).toBe(true);
  for (const name of names) expect(err).toContain(`downloading ${name} (97.7 KiB in all)`);
  expect(statSync(join(folder, 'model.safetensors')).nlink).toBe(2); // the cache has the same file
});

test('an edited file does not change the cache, and the same command restores it without a download', async () => {
  const folder = join(root, 'tiny');
  await runCommandLine('download', 'org/tiny', folder);
  writeFileSync(join(folder, 'config.json'), '{"edited": true}');
  const requested = () => hub.requests.filter((request) => request.includes('/resolve/')).length;
  const first = requested();
  expect((await runCommandLine('download', 'org/tiny', folder)).status).toBe(0);
  expect(readFileSync(join(folder, 'config.json'), 'utf8')).toBe('{}');
  expect(readdirSync(folder).sort()).toEqual(names);
  expect(requested()).toBe(first);
});

test('a folder with other files is refused, and nothing is put into it', async () => {
  const folder = join(root, 'mine');
  mkdirSync(folder);
  writeFileSync(join(folder, 'model-00001-of-00002.safetensors'), 'another model');
  const {status, err} = await runCommandLine('download', 'org/tiny', folder);
  expect(status).toBe(2);
  expect(err).toContain(
    'expected a new or empty folder, or one with this repository\'s files, got "model-00001',
  );
  expect(existsSync(join(folder, 'config.json'))).toBe(false);
});

test('a gated model without a token is an error that names it', async () => {
  process.env.HF_TOKEN = '';
  const {status, err} = await runCommandLine('download', 'org/tiny', join(root, 'tiny'));
  expect(status).toBe(2);
  expect(err).toContain('org/tiny');
  expect(existsSync(join(root, 'tiny'))).toBe(false);
});
