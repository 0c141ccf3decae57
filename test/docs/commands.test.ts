import {existsSync, mkdtempSync, rmSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import type {Command} from 'commander';
import {scripts} from '../../package.json';
import {findSources, readDatasetInfo} from '../../src/data/datasets/datasetInfo.ts';
import {createProgram} from '../../src/tools/cli/runCli.ts';
import {isRecipeKey} from '../../src/tools/recipes/parseRecipe.ts';
import {loadRecipe} from '../../src/tools/recipes/recipe.ts';
import {snippets} from './snippets.ts';

/*
 * Checks the code blocks of README.md and docs/ that are not TypeScript. A command is parsed as the program would parse
 * it; recipes and data set descriptions are read. Blocks of `text` show what something prints.
 */

const root = join(__dirname, '../..');
const all = snippets();
const inLanguage = (language: string) =>
  all
    .filter((snippet) => snippet.language === language)
    .map(({page, line, code}) => [`${page}:${line}`, code]);

test('every block has a language that these tests or snippets.test.ts check', () => {
  const others = all.filter(({language}) => !['ts', 'sh', 'json', 'yaml', 'text'].includes(language));
  expect(
    others.map(({page, line, language}) => `${page}:${line} ${language || 'without a language'}`),
  ).toEqual([]);
});

/** Splits a block into commands, each a list of words. */
function commandsOf(block: string): string[][] {
  return block
    .replaceAll('\\\n', ' ')
    .replace(/(^|\s)#.*$/gm, '')
    .replace(/>>?\s*\S+/g, '') // a redirection
    .replace(/--import \S+/g, '') // the reader's own module
    .split(/\n|&&|\|/)
    .map((line) =>
      [...line.matchAll(/'[^']*'|"[^"]*"|\S+/g)].map(([word]) => word.replace(/^(['"])(.*)\1$/, '$2')),
    )
    .map((words) => words.slice(words.findIndex((word) => !/^[A-Z_]+=/.test(word))))
    .filter((words) => words.length > 0);
}

/** Programs that are not ours, whose arguments are not checked. */
const OTHERS = [
  'cp',
  'curl',
  'export',
  'cd',
  'git',
  'hf',
  'jupyter',
  'llama-cli',
  'mkdir',
  'ollama',
  'pip',
  'tslab',
  'unzip',
  'xcode-select',
  'sudo',
  'nvidia-smi',
  'vllm',
];

async function faultsOf([program, ...args]: string[]): Promise<string[]> {
  if (OTHERS.includes(program)) return [];
  if (program === 'npx') {
    if (args[0] === 'tsx') return existsSync(join(root, args[1])) ? [] : [`no file ${args[1]}`];
    return faultsOf(args);
  }
  if (program === 'npm') {
    if (['ci', 'install', 'init', 'test'].includes(args[0])) return [];
    return args[0] === 'run' && Object.hasOwn(scripts, args[1]) ? [] : [`no script ${args[1]}`];
  }
  return program === 'tfjs-lora' ? faultsOfOurs(args) : [`unknown program ${program}`];
}

async function faultsOfOurs(args: string[]): Promise<string[]> {
  const faults: string[] = [];
  const program = createProgram({hasVersionOption: args[0] !== 'setup'});
  const silence = (command: Command) => {
    command.configureOutput({writeErr: (text) => faults.push(text), writeOut: () => {}});
    command.action(() => {});
    command.commands.forEach(silence);
  };
  silence(program);
  if (args.length === 0 || args.includes('--help')) return [];
  await program.parseAsync(args, {from: 'user'}).catch(({message}) => faults.push(message));
  if (!program.commands.some((command) => command.name() === args[0])) faults.push(`no command ${args[0]}`);
  const keys = args.flatMap((word) => /^(\w+)=/.exec(word)?.[1] ?? []);
  return args.includes('--adapter') ? faults : [...faults, ...keys.filter((key) => !isRecipeKey(key))];
}

test.each(inLanguage('sh'))('%s: every command is one that exists, with its options', async (_, code) => {
  for (const command of commandsOf(code)) expect([command, await faultsOf(command)]).toEqual([command, []]);
});

test('a command, an option, a key, a script or a file that does not exist is a fault', async () => {
  const lines = [
    'tfjs-lora tran x.yaml',
    'tfjs-lora train x.yaml --dry-rum',
    'tfjs-lora train x.yaml lora_rang=8',
  ];
  for (const line of [...lines, 'npm run nothing', 'npx tsx bench/nothing.ts', 'nothing']) {
    expect([line, await faultsOf(commandsOf(line)[0])]).not.toEqual([line, []]);
  }
});

describe('files', () => {
  const folder = mkdtempSync(join(tmpdir(), 'blocks-'));
  const file = (name: string, text: string) => {
    writeFileSync(join(folder, name), text);
    return join(folder, name);
  };
  afterAll(() => rmSync(folder, {recursive: true}));

  test.each(inLanguage('json'))('%s: the JSON is a dataset_info.json, or records', async (_, code) => {
    if (Array.isArray(JSON.parse(code))) return;
    const info = await readDatasetInfo(file('dataset_info.json', code));
    findSources(Object.keys(info), info, 'dataset_info.json');
  });

  test.each(inLanguage('yaml'))('%s: the YAML is a recipe', async (_, code) => {
    if (/^\w/m.test(code))
      await loadRecipe(file('recipe.yaml', code), [], /export_dir/.test(code) ? 'use' : 'run');
  });
});
