import {spawnSync} from 'node:child_process';
import {mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync} from 'node:fs';
import {createRequire} from 'node:module';
import {tmpdir} from 'node:os';
import {delimiter, join} from 'node:path';
import {fileURLToPath} from 'node:url';

/** The part of Jupyter's notebook format that the tests read. */
export interface Notebook {
  cells: Cell[];
  [key: string]: unknown;
}

export interface Cell {
  cell_type: 'code' | 'markdown';
  source: string | string[];
  execution_count?: number | null;
  outputs?: Output[];
  [key: string]: unknown;
}

export interface Output {
  output_type: 'stream' | 'display_data' | 'execute_result' | 'error';
  name?: 'stdout' | 'stderr';
  text?: string | string[];
  data?: Record<string, string | string[]>;
}

/** The program that executes notebooks here: Jupyter, or tslab alone if there is no Jupyter. */
export const runner: 'jupyter' | 'tslab' =
  process.env.TFJS_LORA_NOTEBOOK_RUNNER !== 'tslab' &&
  spawnSync('jupyter', ['nbconvert', '--version'], {stdio: 'ignore'}).status === 0
    ? 'jupyter'
    : 'tslab';

const MAX_SECONDS = 900;
const beside = (file: string): string => fileURLToPath(new URL(file, import.meta.url));
const UNWATCHED_FILES = beside('unwatchedFiles.cjs');

/**
 * Executes a notebook's cells in a new tslab kernel, up to the first that fails.
 *
 * @param folder working directory of the kernel
 * @returns a copy with the outputs; a failed cell has output on stderr, and the cells after it are not executed
 */
export function executeNotebook(notebook: Notebook, folder: string): Notebook {
  const scratch = mkdtempSync(join(tmpdir(), 'tfjs-lora-notebook-'));
  const executed = join(scratch, 'executed.ipynb');
  try {
    const [program, args, environment] = runner === 'jupyter' ? jupyter(scratch) : tslab(executed);
    const {status, stderr, error} = spawnSync(program, args, {
      cwd: folder,
      env: {...process.env, ...environment},
      input: JSON.stringify(notebook),
      encoding: 'utf8',
      timeout: MAX_SECONDS * 1000,
      maxBuffer: 1 << 26,
    });
    if (error || status !== 0) {
      throw new Error(`${program} ${args.join(' ')}: exit ${status}\n${stderr}`, {cause: error});
    }
    return JSON.parse(readFileSync(executed, 'utf8'));
  } finally {
    rmSync(scratch, {recursive: true, force: true});
  }
}

type Command = [program: string, args: string[], environment: NodeJS.ProcessEnv];

/**
 * Executes a notebook with nbconvert and our own kernel description: `tslab install` needs IPython, which Debian lacks.
 */
function jupyter(scratch: string): Command {
  const kernel = join(scratch, 'kernels', 'tslab');
  mkdirSync(kernel, {recursive: true});
  const argv = [
    process.execPath,
    '--require',
    UNWATCHED_FILES,
    createRequire(import.meta.url).resolve('tslab/bin/tslab'),
    'kernel',
    '--config-path={connection_file}',
  ];
  writeFileSync(
    join(kernel, 'kernel.json'),
    JSON.stringify({argv, display_name: 'TypeScript', language: 'typescript'}),
  );
  const settings = [
    'kernel_name=tslab',
    `timeout=${MAX_SECONDS}`,
    'allow_errors=True',
    'record_timing=False',
  ];
  const options = settings.map((setting) => `--ExecutePreprocessor.${setting}`);
  return [
    'jupyter',
    [
      'nbconvert',
      '--to',
      'notebook',
      '--execute',
      '--stdin',
      '--output',
      join(scratch, 'executed'),
      ...options,
    ],
    {JUPYTER_PATH: [scratch, process.env.JUPYTER_PATH].filter(Boolean).join(delimiter)},
  ];
}

function tslab(executed: string): Command {
  return [process.execPath, ['--require', UNWATCHED_FILES, beside('runNotebookCells.cjs'), executed], {}];
}

export const codeOf = ({cells}: Notebook): Cell[] => cells.filter(({cell_type}) => cell_type === 'code');

export const sourceOf = ({source}: Cell): string => [source].flat().join('');

/** Returns the printed text of a cell. */
export function printed({outputs = []}: Cell, stream: 'stdout' | 'stderr' = 'stdout'): string {
  return outputs
    .filter(({output_type, name}) => output_type === 'stream' && name === stream)
    .map(({text = ''}) => [text].flat().join(''))
    .join('');
}

/** Returns what a cell displayed as a MIME type. */
export function displayed({outputs = []}: Cell, mimeType: string): string[] {
  return outputs.flatMap(({data = {}}) => (mimeType in data ? [[data[mimeType]].flat().join('')] : []));
}

/** Returns the MIME types that a cell displayed. */
export function displayedTypes({outputs = []}: Cell): string[] {
  return outputs.flatMap(({data = {}}) => Object.keys(data));
}

/**
 * Lists the faults of a run: cells that failed or warned, with their messages, and a last cell that was not reached.
 */
export function faults(notebook: Notebook): {cell: string; said: string}[] {
  const cells = codeOf(notebook);
  const failed = ({outputs = []}: Cell) => outputs.filter(({output_type}) => output_type === 'error');
  const said = (cell: Cell) => [
    printed(cell, 'stderr'),
    ...failed(cell).map((output) => JSON.stringify(output)),
  ];
  return cells
    .map((cell) => ({cell: sourceOf(cell), said: said(cell).join('')}))
    .concat(printed(cells.at(-1) as Cell) === '' ? {cell: 'the last one', said: 'nothing'} : [])
    .filter((fault) => fault.said !== '');
}
