import {execFile} from 'node:child_process';
import {access, mkdir, mkdtemp, rm} from 'node:fs/promises';
import {createRequire} from 'node:module';
import {availableParallelism, platform, tmpdir} from 'node:os';
import {dirname, join, relative} from 'node:path';
import {promisify} from 'node:util';
import {TfjsLoraError} from '../../../quant/errors.ts';
import type {TensorFlowLibrary} from './tensorFlowLibrary.ts';

/** Tried in turn, after what `CXX` names. */
const COMPILERS = ['c++', 'g++', 'clang++'];

/** An addon of Node that calls TensorFlow's C library. */
export interface Addon {
  /** For messages. */
  name: string;
  sources: string[];
  /** Of TensorFlow, that the sources include: looked for first, since a compiler's message is long. */
  headers: string[];
  /** The compiler's, beside those that every addon needs. */
  flags: string[];
  /** Those of one source alone, after the rest. */
  flagsOf?: (source: string) => string[];
  /** Folders that the addon looks for libraries in, beside TensorFlow's, when it is loaded and after. */
  libraryFolders?: string[];
  /** Of Node-API. */
  version: number;
  /** Where it goes. */
  output: string;
}

/**
 * Compiles an addon, a source to a core, and links it. That takes a C++ compiler, but neither node-gyp nor Python: Node-API's
 * headers are a package.
 *
 * @param folder whose `node_modules` hold `node-api-headers`
 * @param environment `CXX` names the compiler
 * @throws TfjsLoraError `FILE_NOT_FOUND` without headers; `BACKEND_UNAVAILABLE` without a compiler, or with what it says
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
  await mkdir(dirname(output), {recursive: true});
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

/** Where the addon looks for the library when it is loaded, and for others: relative paths when all are moved. */
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
 * The C++ compiler that there is.
 *
 * @throws TfjsLoraError `BACKEND_UNAVAILABLE`
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

/** As many at once as there are cores. After a failure none is begun, and those that run are waited for. */
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
