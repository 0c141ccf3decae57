import {existsSync} from 'node:fs';
import {readdir} from 'node:fs/promises';
import {platform} from 'node:os';
import {dirname, join} from 'node:path';
import {TfjsLoraError} from '../../../quant/errors.ts';

/** The files of TensorFlow's C library on disk. */
export interface TensorFlowLibrary {
  /** `libtensorflow_cc` or `libtensorflow`, then `libtensorflow_framework`. */
  files: string[];
  /** Folder that contains `tensorflow/c/c_api.h`. */
  headers: string;
  /** Whether the library moves with the addon, which must then find it by a relative path. */
  isMovedAlong: boolean;
}

/**
 * Finds the library of a set-up.
 *
 * @param folder folder of the set-up
 * @param source `official`, `wheel`, or a folder that is used in its place: an unpacked libtensorflow, a virtual
 *   environment, or a `tensorflow` package
 * @throws TfjsLoraError `FILE_NOT_FOUND` when such a folder has no library
 */
export async function libraryOf(
  folder: string,
  packageName: string,
  source: string,
): Promise<TensorFlowLibrary> {
  if (source === 'wheel') return libraryIn(join(folder, 'tensorflow'), true);
  if (source === 'official') return libraryIn(join(folder, 'node_modules', packageName, 'deps'), true);
  const candidates = [
    source,
    join(source, 'tensorflow'),
    ...(await sitePackages(source)).map((each) => join(each, 'tensorflow')),
  ];
  const found = candidates.find((each) => libraryFiles(each).length === 2);
  if (found) return libraryIn(found, false);
  throw new TfjsLoraError(
    'FILE_NOT_FOUND',
    `setup tensorflow --from ${source}: expected an unpacked libtensorflow (lib, include), a virtual environment with ` +
      'tensorflow, or a tensorflow package, got none of them.',
  );
}

async function sitePackages(environment: string): Promise<string[]> {
  const pythons = await readdir(join(environment, 'lib')).catch(() => []);
  return pythons.map((python) => join(environment, 'lib', python, 'site-packages'));
}

function libraryIn(folder: string, isMovedAlong: boolean): TensorFlowLibrary {
  return {files: libraryFiles(folder), headers: join(folder, 'include'), isMovedAlong};
}

/** Finds `libtensorflow_cc` (of a wheel) or `libtensorflow` (of the C distribution), and the framework. */
function libraryFiles(folder: string): string[] {
  const ending = (name: string) =>
    platform() === 'darwin' ? [`${name}.2.dylib`] : [`${name}.so.2`, `${name}.so`];
  const first = (names: string[]) =>
    names
      .flatMap(ending)
      .flatMap((name) => [join(folder, name), join(folder, 'lib', name)])
      .find((path) => existsSync(path));
  const files = [first(['libtensorflow_cc', 'libtensorflow']), first(['libtensorflow_framework'])];
  return files.filter((file) => file !== undefined);
}

/** Returns the folder next to a library's own, where NVIDIA's libraries are. */
export const besideLibrary = ({headers}: TensorFlowLibrary): string => dirname(dirname(headers));
