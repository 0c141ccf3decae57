import {existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {setWarningHandler} from '../../../../src/index.ts';
import {tuningFile} from '../../../../src/training/backends/tuningFile.ts';

let folder: string;
let before: string | undefined;
let warnings: string[];
let handler: (message: string) => void;
const file = () => join(folder, 'tfjs-lora', 'tuning.json');

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'tfjs-lora-tuning-'));
  before = process.env.XDG_CACHE_HOME;
  process.env.XDG_CACHE_HOME = folder;
  warnings = [];
  handler = setWarningHandler((message) => warnings.push(message));
});
afterEach(() => {
  setWarningHandler(handler);
  if (before === undefined) delete process.env.XDG_CACHE_HOME;
  else process.env.XDG_CACHE_HOME = before;
  rmSync(folder, {recursive: true});
});

test('returns what was stored, and nothing before that', async () => {
  expect(await tuningFile.load()).toEqual({});
  await tuningFile.save({'1 card: a': '4,16'});
  expect(await tuningFile.load()).toEqual({'1 card: a': '4,16'});
  expect(readdirSync(join(folder, 'tfjs-lora'))).toEqual(['tuning.json']);
  expect(warnings).toEqual([]);
});

test.each(['{"choices": {"a"', '[]', 'null', '{"choices": ["a"]}', '{"choices": {"a": 3}}'])(
  'warns of an invalid file, and writes it again: %s',
  async (text) => {
    mkdirSync(join(folder, 'tfjs-lora'));
    writeFileSync(file(), text);
    expect(await tuningFile.load()).toEqual({});
    expect(warnings).toEqual([
      expect.stringMatching(/^useBackend tune: earlier measurements are not used: /),
    ]);
    await tuningFile.save({a: '1'});
    expect(await tuningFile.load()).toEqual({a: '1'});
    expect(warnings.length).toBe(1);
  },
);

test('warns when it cannot write', async () => {
  process.env.XDG_CACHE_HOME = join(folder, 'file');
  writeFileSync(process.env.XDG_CACHE_HOME, '');
  await tuningFile.save({a: '1'});
  expect(warnings).toEqual([
    expect.stringMatching(/^useBackend tune: the measurements could not be stored: /),
  ]);
  expect(existsSync(file())).toBe(false);
});
