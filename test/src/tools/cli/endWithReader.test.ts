import {spawn} from 'node:child_process';
import {once} from 'node:events';
import {join} from 'node:path';
import {compiledScript} from '../../../compiledScript.ts';

const root = join(__dirname, '../../../..');
const MAIN = compiledScript(join(root, 'src/tools/cli/main.ts'));

/** Runs a command whose reader closes the pipe before any output. */
async function runUnread(stream: 'stdout' | 'stderr', args: string[]): Promise<{code: number; text: string}> {
  const child = spawn(process.execPath, [MAIN, ...args], {
    cwd: root,
    env: {...process.env, npm_command: ''},
  });
  let text = '';
  const other = stream === 'stdout' ? child.stderr : child.stdout;
  other.on('data', (chunk) => {
    text += chunk;
  });
  child[stream].destroy();
  const [code] = await once(child, 'close');
  return {code, text};
}

test.each([
  ['stdout', ['--help']],
  ['stderr', ['eval', 'nowhere.yaml']],
] as const)(
  'a command ends quietly if the reader of its %s has closed the pipe',
  async (stream, args) => {
    expect(await runUnread(stream, [...args])).toEqual({code: 141, text: ''});
  },
  120_000,
);
