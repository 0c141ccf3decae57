import {execFile} from 'node:child_process';
import {readdir, rm} from 'node:fs/promises';
import {arch, platform} from 'node:os';
import {join} from 'node:path';
import {promisify} from 'node:util';
import {TfjsLoraError} from '../../quant/errors.ts';
import {downloadWheel, findWheel, packageIndex} from './wheelIndex.ts';

/** Pythons whose wheels pip is asked for, since it looks for one Python's at a time. */
const PYTHONS = ['3.12', '3.11', '3.10', '3.13', '3.9'];

export interface WheelRequest {
  project: string;
  version?: string;
  /** Where the file goes. */
  folder: string;
  environment: Record<string, string | undefined>;
}

/**
 * Downloads a wheel from the index that pip is set to, without Python; where none is set or that fails (a proxy, a password), by
 * pip.
 *
 * @returns the file's path
 * @throws TfjsLoraError with both reasons
 */
export async function fetchWheel(request: WheelRequest): Promise<string> {
  const {project, version, folder, environment} = request;
  try {
    const index = await packageIndex(environment);
    const wheel = await findWheel(index, project, {os: platform(), arch: arch()}, version);
    const path = join(folder, wheel.filename);
    await downloadWheel(wheel, path);
    return path;
  } catch (error) {
    if (error instanceof TfjsLoraError && error.code === 'FILE_NOT_FOUND') throw error;
    const {message, cause} = error as Error;
    const reason = cause instanceof Error ? `${message} (${cause.message})` : message;
    return await downloadByPip(request, reason);
  }
}

async function downloadByPip(
  {project, version, folder, environment}: WheelRequest,
  why: string,
): Promise<string> {
  const machine = arch() === 'x64' ? 'x86_64' : platform() === 'darwin' ? 'arm64' : 'aarch64';
  const systems =
    platform() === 'darwin'
      ? [`macosx_12_0_${machine}`]
      : ['manylinux_2_27', 'manylinux_2_17', 'manylinux2014'].map((system) => `${system}_${machine}`);
  let failure = '';
  for (const python of PYTHONS) {
    const args = ['-m', 'pip', 'download', '--quiet', '--no-deps', '--only-binary=:all:', '--dest', folder];
    args.push(...systems.flatMap((system) => ['--platform', system]), '--python-version', python);
    args.push(version ? `${project}==${version}` : project);
    try {
      await promisify(execFile)('python3', args, {env: environment, maxBuffer: 1 << 26});
      const found = (await readdir(folder)).find(
        (name) => name.startsWith(`${project.replaceAll('-', '_')}-`) && name.endsWith('.whl'),
      );
      if (found) return join(folder, found);
    } catch (error) {
      const {code, stderr = ''} = error as {code?: string | number; stderr?: string};
      failure = code === 'ENOENT' ? 'no python3' : (stderr.trim().split('\n').at(-1) ?? '');
      if (code === 'ENOENT') break;
    }
  }
  await rm(folder, {recursive: true, force: true});
  throw new TfjsLoraError(
    'BACKEND_UNAVAILABLE',
    `wheel of ${project}: expected a download, got: ${why}; by pip: ${failure}. Check the connection, PIP_INDEX_URL and ` +
      'NODE_EXTRA_CA_CERTS, or pass a folder to --from.',
  );
}
