import {spawn} from 'node:child_process';
import {existsSync, readdirSync, readFileSync} from 'node:fs';
import {join} from 'node:path';
import {compiledScript} from '../compiledScript.ts';
import {inFolder} from './tinyLlama.ts';

const SCRIPT = compiledScript(join(__dirname, 'dyingSave.ts'));
const TOKENIZER = join(__dirname, 'fixtures/tokenizers/byteLevel');

function runChild(...args: string[]): Promise<{signal: string | null; code: number | null; text: string}> {
  const child = spawn(process.execPath, [SCRIPT, TOKENIZER, ...args]);
  let text = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (data) => {
      text += data;
    });
  }
  return new Promise((resolve) => child.on('close', (code, signal) => resolve({code, signal, text})));
}

const visible = (folder: string) =>
  readdirSync(folder)
    .filter((name) => !name.startsWith('.'))
    .sort();

describe.each([
  ['adapter', 'adapter_config.json'],
  ['model', 'config.json'],
  ['export', 'config.json'],
])('a process that dies while it saves: %s', (what, entry) => {
  test(
    'leaves the earlier save, the new one, or nothing that loads, and the next save leaves no trace of it',
    () =>
      inFolder(async (folder) => {
        const {code, text} = await runChild(folder, what, 'all');
        expect([code, text]).toEqual([0, expect.stringMatching(/^\d+ new$/m)]);
        const lines = text.split('\n').filter((line) => /^(\d+|after \d+:) /.test(line));
        const outcomes = lines.map((line) => line.replace(/^\d+ /, ''));
        expect(outcomes.filter((outcome) => !['earlier', 'nothing', 'new'].includes(outcome))).toEqual([]);
        // The earlier one stays while the new one is written; only while files are renamed is there none.
        const order = outcomes.filter((outcome, i) => outcome !== outcomes[i - 1]);
        expect(order).toEqual(['earlier', 'nothing', 'new']);

        // The same with a real death, in the middle of writing and in the middle of renaming.
        const [writing, changing] = ['earlier', 'nothing'].map((outcome) => {
          const places = outcomes.flatMap((other, i) => (other === outcome ? [i + 1] : []));
          return String(places[Math.floor(places.length / 2)]);
        });
        const [target, earlier, later] = ['target', 'earlier', 'later'].map((name) => join(folder, name));
        expect(await runChild(folder, what, writing)).toMatchObject({signal: 'SIGKILL'});
        expect(visible(target)).toEqual(visible(earlier));
        for (const name of visible(target))
          expect([name, readFileSync(join(target, name)).equals(readFileSync(join(earlier, name)))]).toEqual([
            name,
            true,
          ]);
        expect(await runChild(folder, what, changing)).toMatchObject({signal: 'SIGKILL'});
        expect(existsSync(join(target, entry))).toBe(false);
        expect(await runChild(folder, what, '0')).toMatchObject({code: 0});
        expect(readdirSync(target).sort()).toEqual(readdirSync(later).sort());
      }),
    300_000,
  );
});
