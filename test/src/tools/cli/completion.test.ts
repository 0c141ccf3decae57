import {execFileSync, spawnSync} from 'node:child_process';
import {mkdtempSync, rmSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {runCommandLine} from './runCommandLine.ts';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'tfjs-lora-completion-'));
  for (const name of ['recipe.yaml', 'rest.txt']) writeFileSync(join(folder, name), '');
});
afterAll(() => rmSync(folder, {recursive: true}));

async function scriptFor(shell: string): Promise<string> {
  const {status, out, err} = await runCommandLine('completion', shell);
  expect({status, err}).toEqual({status: 0, err: ''});
  return out;
}

const has = (program: string) => spawnSync(program, ['--version']).status === 0;

/** Completes the last word of a command line in bash, which splits words at each equals sign. */
async function completedByBash(...words: string[]): Promise<string[]> {
  const given = words.map((word) => `'${word}'`).join(' ');
  const script = `${await scriptFor('bash')}
COMP_WORDS=(tfjs-lora ${given}) COMP_CWORD=${words.length}
_tfjs_lora; printf '%s\\n' "\${COMPREPLY[@]}"`;
  const out = execFileSync('bash', ['--norc', '-c', script], {cwd: folder, encoding: 'utf8'});
  return out.split('\n').filter(Boolean);
}

describe('in bash', () => {
  test('completes commands, also below a command and after help', async () => {
    expect(await completedByBash('e')).toEqual(['eval', 'export']);
    expect(await completedByBash('--debug', 'qua')).toEqual(['quantize']);
    expect(await completedByBash('setup', 't')).toEqual(['tensorflow']);
    expect(await completedByBash('help', 'qui')).toEqual(['quickstart']);
  });

  test('completes the options of the command, and those of every command', async () => {
    expect(await completedByBash('train', '--')).toEqual(
      expect.arrayContaining(['--dry-run', '--memory-budget', '--help', '--debug', '--backend', '--version']),
    );
    expect(await completedByBash('quantize', 'a', 'b', '--ty')).toEqual(['--type']);
    expect(await completedByBash('setup', 'tensorflow', '--g')).toEqual(['--gpu']);
    expect(await completedByBash('export', '--dry')).toEqual([]);
  });

  test('completes values', async () => {
    expect(await completedByBash('train', '--backend', 'w')).toEqual(['webgpu', 'wasm']);
    expect(await completedByBash('quantize', '--type', '')).toEqual(['nf4', 'fp4', 'int8']);
    expect(await completedByBash('completion', '')).toEqual(['bash', 'zsh', 'fish']);
  });

  test('leaves files to bash, and completes recipe keys after the recipe', async () => {
    expect(await completedByBash('train', 're')).toEqual([]);
    expect(await completedByBash('eval', 'recipe.yaml', '--plot', 're')).toEqual([]);
    expect(await completedByBash('train', 'recipe.yaml', 'lora_r')).toEqual(['lora_rank=']);
    expect(await completedByBash('train', 'recipe.yaml', 'lora_rank', '=', '')).toEqual([]);
  });
});

(has('zsh') ? test : test.skip)('zsh reads the script, and knows the words', async () => {
  const script = `compdef() { :; }; compset() { return 1; }; _files() { :; }
compadd() { print -rl -- \${(P)@[-1]}; }; _describe() { print -rl -- \${(P)2}; }
${await scriptFor('zsh')}
words=(tfjs-lora setup ''); CURRENT=3; _tfjs_lora
words=(tfjs-lora train recipe.yaml ''); CURRENT=4; _tfjs_lora`;
  const lines = execFileSync('zsh', ['-f', '-c', script], {encoding: 'utf8'}).split('\n');
  expect(lines).toContain('tensorflow:Install native TensorFlow');
  expect(lines).toContain('lora_rank=');
});

(has('fish') ? test : test.skip)('fish completes with the script', async () => {
  const file = join(folder, 'tfjs-lora.fish');
  writeFileSync(file, await scriptFor('fish'));
  const completed = (line: string) =>
    execFileSync('fish', ['--no-config', '-c', `source ${file}; complete -C '${line}'`], {
      cwd: folder,
      encoding: 'utf8',
    }).split('\n');
  expect(completed('tfjs-lora setup t')).toContain('tensorflow\tInstall native TensorFlow');
  expect(completed('tfjs-lora quantize --type f')).toContain('fp4\tformat of the weights');
  expect(completed('tfjs-lora train recipe.yaml lora_r')).toContain('lora_rank=');
  expect(completed('tfjs-lora help qui').join('\n')).toContain('quickstart');
});

test('an unknown shell is refused with the known ones', async () => {
  const {status, err} = await runCommandLine('completion', 'csh');
  expect(status).toBe(2);
  expect(err).toContain('Allowed choices are bash, zsh, fish.');
});
