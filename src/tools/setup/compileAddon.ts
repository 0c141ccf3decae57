import {execFile} from 'node:child_process';
import {access, mkdtemp, rm} from 'node:fs/promises';
import {createRequire} from 'node:module';
import {availableParallelism, platform, tmpdir} from 'node:os';
import {dirname, join, relative} from 'node:path';
import {promisify} from 'node:util';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {makeFolder} from '../../../quant/safetensors/makeFolder.ts';
import type {TensorFlowLibrary} from './tensorFlowLibrary.ts';

/** The compilers that are tried in this order, unless `CXX` names one. */
const COMPILERS = ['c++', 'g++', 'clang++'];

/** A Node addon that calls TensorFlow's C library. */
export interface Addon {
  /** Name for messages. */
  name: string;
  sources: string[];
  /** TensorFlow headers that the sources include. They are checked first, because a compiler's message is long. */
  headers: string[];
  /** Compiler flags, in addition to those that every addon needs. */
  flags: string[];
  /** Returns the flags of a single source, which follow the others. */
  flagsOf?: (source: string) => string[];
  /** Folders in which the addon finds libraries at run time, in addition to TensorFlow's. */
  libraryFolders?: string[];
  /** Version of Node-API. */
  version: number;
  /** Path of the compiled addon. */
  output: string;
}

/**
 * Compiles an addon, one source on each core, and links it. This needs a C++ compiler, but neither node-gyp nor Python,
 * because Node-API's headers are a package.
 *
 * @param folder folder whose `node_modules` contains `node-api-headers`
 * @param environment variables of the process; `CXX` names the compiler
 * @throws TfjsLoraError `FILE_NOT_FOUND` when a header is missing; `BACKEND_UNAVAILABLE` without a compiler, or with
 *   the compiler's message
 */
export async function compileAddon(
  {name, sources, headers, flags, flagsOf = () => [], libraryFolders = [], version, output}: Addon,
  library: TensorFlowLibrary,
  folder: string,
  environment: Record<string, string | undefined>,
): Promise<void> {
  for (const header of headers) await requireHeader(join(library.headers, header));
  const nodeHeaders: string = createRequire(join(folder, 'package.json'))('node-api-headers').include_dir;
  const compiler = await compilerOf(environment);
  const run = (args: string[]) => runCompiler(compiler, args, name);
  const isMac = platform() === 'darwin';
  const includes = [library.headers, nodeHeaders].map((each) => `-I${each}`);
  makeFolder(dirname(output));
  const temporary = await mkdtemp(join(tmpdir(), 'tfjs-lora-addon-'));
  try {
    const objects = sources.map((_, i) => join(temporary, `${i}.o`));
    const all = ['-std=c++17', '-fPIC', '-pthread', `-DNAPI_VERSION=${version}`, ...flags, ...includes];
    await eachOnACore(sources, (source, i) =>
      run([...all, ...flagsOf(source), '-c', source, '-o', objects[i]]),
    );
    await run([
      ...['-shared', '-pthread'],
      ...(isMac ? ['-undefined', 'dynamic_lookup'] : []),
      ...[...objects, '-o', output, ...library.files],
      ...searchPaths(library, libraryFolders, dirname(output), isMac ? '@loader_path' : '$ORIGIN'),
    ]);
  } finally {
    await rm(temporary, {recursive: true});
  }
}

async function requireHeader(path: string): Promise<void> {
  await access(path).catch(() => {
    throw new TfjsLoraError(
      'FILE_NOT_FOUND',
      `${path}: expected a header of TensorFlow, got no such file. Try another --version or folder.`,
    );
  });
}

/** Returns the linker flags for the folders in which the addon finds libraries: relative paths if they move with it. */
function searchPaths(
  {files, isMovedAlong}: TensorFlowLibrary,
  others: string[],
  folder: string,
  origin: string,
): string[] {
  const folders = new Set([...files.map((file) => dirname(file)), ...others]);
  return [...folders].map(
    (each) => `-Wl,-rpath,${isMovedAlong ? `${origin}/${relative(folder, each)}` : each}`,
  );
}

/**
 * Returns the first C++ compiler that is installed.
 *
 * @throws TfjsLoraError `BACKEND_UNAVAILABLE` when there is none
 */
export async function compilerOf({CXX}: Record<string, string | undefined>): Promise<string> {
  const compilers = CXX ? [CXX] : COMPILERS;
  for (const compiler of compilers) {
    const {code} = await promisify(execFile)(compiler, ['--version']).then(
      () => ({code: undefined}),
      (error: {code?: string | number}) => error,
    );
    if (code !== 'ENOENT') return compiler;
  }
  throw new TfjsLoraError(
    'BACKEND_UNAVAILABLE',
    `setup tensorflow: expected a C++ compiler, got none of ${compilers.join(', ')}. Install one (Debian: g++; macOS: ` +
      'xcode-select --install), or name it in CXX.',
  );
}

async function runCompiler(compiler: string, args: string[], name: string): Promise<void> {
  try {
    await promisify(execFile)(compiler, args, {maxBuffer: 1 << 26});
  } catch (error) {
    const {stderr = '', message} = error as {stderr?: string; message: string};
    const lines = stderr.split('\n').filter((line) => /error|undefined|cannot/i.test(line));
    const said = lines.slice(0, 3).join(' | ') || stderr.trim() || message.split('\n')[0];
    throw new TfjsLoraError(
      'BACKEND_UNAVAILABLE',
      `${compiler}: expected ${name} to compile, got: ${said}. Pass another --version.`,
    );
  }
}

/**
 * Runs a task for each item, as many at a time as there are cores. After a failure it starts no more, but awaits all.
 */
async function eachOnACore<T>(items: T[], run: (item: T, i: number) => Promise<void>): Promise<void> {
  const waiting = [...items.entries()];
  const worker = async () => {
    for (let next = waiting.shift(); next; next = waiting.shift()) {
      const [i, item] = next;
      await run(item, i).catch((error) => {
        waiting.length = 0;
        throw error;
      });
    }
  };
  const results = await Promise.allSettled(Array.from({length: availableParallelism()}, worker));
  const failed = results.find((result) => result.status === 'rejected');
  if (failed) throw failed.reason;
}
