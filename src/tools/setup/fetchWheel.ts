import {execFile} from 'node:child_process';
import {readdir, rm} from 'node:fs/promises';
import {arch, platform} from 'node:os';
import {basename, join} from 'node:path';
import {promisify} from 'node:util';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {assertHash, downloadWheel, findWheel, packageIndex, type Wheel} from './wheelIndex.ts';

/** Python versions whose wheels are tried, because pip looks for the wheels of one version at a time. */
const PYTHONS = ['3.12', '3.11', '3.10', '3.13', '3.9'];

export interface WheelRequest {
  project: string;
  version?: string;
  /** Folder for the file. */
  folder: string;
  environment: Record<string, string | undefined>;
  /** Called with a line that names the hash by which the file was verified, or says that there was none. */
  onProgress: (line: string) => void;
}

/**
 * Downloads a wheel from pip's configured index without Python. If no index is configured or the download fails
 * (because of a proxy, for example), pip downloads it.
 *
 * @returns the file's path
 * @throws TfjsLoraError `FILE_NOT_FOUND` when the index has no such wheel; `CORRUPT_FILE` when the file's hash differs
 *   from the index's; `BACKEND_UNAVAILABLE` with both reasons when pip fails too
 */
export async function fetchWheel(request: WheelRequest): Promise<string> {
  const {project, version, folder, environment, onProgress} = request;
  let wheel: Wheel | undefined;
  try {
    const index = await packageIndex(environment);
    wheel = await findWheel(index, project, {os: platform(), arch: arch()}, version);
    const path = join(folder, wheel.filename);
    const hash = await downloadWheel(wheel, path);
    onProgress(
      wheel.sha256
        ? `  ${wheel.filename}: SHA-256 ${hash}, equal to the index's`
        : `  ${wheel.filename}: not verified, because the index has no SHA-256; the file's is ${hash}`,
    );
    return path;
  } catch (error) {
    if (error instanceof TfjsLoraError && ['FILE_NOT_FOUND', 'CORRUPT_FILE'].includes(error.code))
      throw error;
    const {message, cause} = error as Error;
    const reason = cause instanceof Error ? `${message} (${cause.message})` : message;
    const path = await downloadByPip(request, reason);
    const listed = wheel?.filename === basename(path) ? wheel.sha256 : undefined;
    const hash = await assertHash(path, basename(path), listed);
    onProgress(
      listed
        ? `  ${basename(path)}: SHA-256 ${hash}, equal to the index's`
        : `  ${basename(path)}: downloaded by pip, which checks a hash if its index has one; not verified here, SHA-256 ${hash}`,
    );
    return path;
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
