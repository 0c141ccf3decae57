import {execFile} from 'node:child_process';
import {access, mkdir} from 'node:fs/promises';
import {createRequire} from 'node:module';
import {platform} from 'node:os';
import {dirname, join, relative} from 'node:path';
import {promisify} from 'node:util';
import {TfjsLoraError} from '../../quant/errors.ts';

/** TensorFlow's C library as it lies on disk. */
export interface TensorFlowLibrary {
  /** `libtensorflow_cc` or `libtensorflow`, then `libtensorflow_framework`. */
  files: string[];
  /** Holds `tensorflow/c/c_api.h`. */
  headers: string;
  /** Whether it moves with the addon, which must then find it by a relative path. */
  isMovedAlong: boolean;
}

/** Tried in turn, after what `CXX` names. */
const COMPILERS = ['c++', 'g++', 'clang++'];

/** The header of a string's layout, last of those the addon includes to have moved. */
const STRING_HEADER = 'tensorflow/core/platform/ctstring_internal.h';

/**
 * Compiles the addon of `@tensorflow/tfjs-node` from its own sources, for another TensorFlow than it was released with. That
 * takes a C++ compiler, but neither node-gyp nor Python: the addon uses Node-API only, whose headers are a package.
 *
 * @param packageFolder of `@tensorflow/tfjs-node` or `-gpu`, with its dependencies and `node-api-headers` around it
 * @throws TfjsLoraError `FILE_NOT_FOUND` without headers; `BACKEND_UNAVAILABLE` without a compiler, or with what it says
 */
export async function buildAddon(
  packageFolder: string,
  {files, headers, isMovedAlong}: TensorFlowLibrary,
  environment: Record<string, string | undefined>,
): Promise<void> {
  await access(join(headers, STRING_HEADER)).catch(() => {
    throw new TfjsLoraError(
      'FILE_NOT_FOUND',
      `${join(headers, STRING_HEADER)}: expected a header of TensorFlow, got no such file. Try another --version or folder.`,
    );
  });
  const load = createRequire(join(packageFolder, 'package.json'));
  const addon: string = load('@mapbox/node-pre-gyp').find(join(packageFolder, 'package.json'));
  const nodeHeaders: string = load('node-api-headers').include_dir;
  const isMac = platform() === 'darwin';
  const origin = isMac ? '@loader_path' : '$ORIGIN';
  const folders = [...new Set(files.map((file) => dirname(file)))];
  await mkdir(dirname(addon), {recursive: true});
  await compile(environment.CXX, [
    ...['-std=c++17', '-O2', '-fPIC', '-shared', '-w'],
    ...(isMac ? ['-undefined', 'dynamic_lookup'] : []),
    `-DNAPI_VERSION=${/napi-v(\d+)/.exec(addon)?.[1] ?? 8}`,
    ...[headers, nodeHeaders].map((folder) => `-I${folder}`),
    ...['tfjs_backend.cc', 'tfjs_binding.cc'].map((name) => join(packageFolder, 'binding', name)),
    ...['-o', addon],
    ...files,
    ...folders.map((folder) =>
      isMovedAlong ? `-Wl,-rpath,${origin}/${relative(dirname(addon), folder)}` : `-Wl,-rpath,${folder}`,
    ),
  ]);
}

async function compile(preferred: string | undefined, args: string[]): Promise<void> {
  const compilers = preferred ? [preferred] : COMPILERS;
  for (const compiler of compilers) {
    try {
      await promisify(execFile)(compiler, args, {maxBuffer: 1 << 26});
      return;
    } catch (error) {
      const {code, stderr = ''} = error as {code?: string | number; stderr?: string};
      if (code === 'ENOENT') continue;
      const lines = stderr.split('\n').filter((line) => /error|undefined|cannot/i.test(line));
      throw new TfjsLoraError(
        'BACKEND_UNAVAILABLE',
        `${compiler}: expected the addon of tfjs-node to compile, got: ${lines.slice(0, 3).join(' | ') || stderr.trim()}. ` +
          'Pass another --version.',
      );
    }
  }
  throw new TfjsLoraError(
    'BACKEND_UNAVAILABLE',
    `setup tensorflow: expected a C++ compiler, got none of ${compilers.join(', ')}. Install one (Debian: g++; macOS: ` +
      'xcode-select --install), or name it in CXX.',
  );
}
