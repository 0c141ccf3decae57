import {execFile} from 'node:child_process';
import {existsSync} from 'node:fs';
import {chmod, mkdir, readdir, rename, rm, writeFile} from 'node:fs/promises';
import {arch, platform} from 'node:os';
import {dirname, join, resolve} from 'node:path';
import {promisify} from 'node:util';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {keepSecretsOf, maskSecrets} from '../../../quant/maskSecrets.ts';
import {makeFolder} from '../../../quant/safetensors/makeFolder.ts';
import {ZipFile} from '../../data/datasets/zipFile.ts';
import {contextSource} from '../../training/backends/contextSource.ts';
import {FUSED_OPS_FILE} from '../../training/backends/fusedOps.ts';
import {fusedOpsSources} from '../../training/backends/fusedOpsSources.ts';
import {
  type FusedOpsSetup,
  readSetup,
  SETUP_FILE,
  type TensorFlowPackage,
  type TensorFlowSetup,
  tensorflowFolder,
} from '../../training/backends/tensorflowFolder.ts';
import {buildAddon} from './buildAddon.ts';
import {buildCardLayer} from './buildCardLayer.ts';
import {buildFusedOps} from './buildFusedOps.ts';
import {checkFusedOps, checkTensorFlow, type TensorFlowCheck} from './checkTensorFlow.ts';
import {compilerOf} from './compileAddon.ts';
import {cudaWheels} from './cudaWheels.ts';
import {fetchWheel} from './fetchWheel.ts';
import {besideLibrary, libraryOf} from './tensorFlowLibrary.ts';

/** The release of `@tensorflow/tfjs-node` that is set up, and the TensorFlow that its installer downloads. */
const [PACKAGE_VERSION, OFFICIAL_TENSORFLOW] = ['4.22.0', '2.9.1'];
const NODE_API_HEADERS = 'node-api-headers@1';

/** The first TensorFlow whose wheel has the C library in a separate file. */
const OLDEST_WHEEL = '2.12.0';

/** Headers of the wheel that the addon may include, in any release. */
const HEADERS = /^tensorflow\/include\/(tensorflow\/(c|core\/platform|tsl)|tsl|xla\/tsl)\/.*\.h$/;
/** Headers that the fused ops for a card include. They are kept. */
const CARD_HEADERS =
  /^tensorflow\/include\/(absl|Eigen|google|ml_dtypes|tensorflow\/(c|core)|tsl|unsupported|xla)\/(.*\/)?(.*\.(h|inc)|[^./]+)$/;

export interface SetupTensorFlowOptions {
  /**
   * Whether to set up a graphics card: `@tensorflow/tfjs-node-gpu`, a TensorFlow built with CUDA, and NVIDIA's
   * libraries. Default false.
   */
  gpu?: boolean;
  /**
   * Source of TensorFlow. `official` is the download of the package's own installer, `wheel` is TensorFlow's Python
   * wheel, and `auto` is the first of the two that works. Anything else is a folder: an unpacked libtensorflow, a
   * virtual environment, or a `tensorflow` package. Default `auto`.
   */
  from?: string;
  /** Version of TensorFlow. Default: the installer's, or the newest wheel. */
  version?: string;
  /**
   * Whether NVIDIA's libraries are downloaded for `gpu` from a wheel; otherwise the system's are used. Default true.
   */
  nvidia?: boolean;
  /** Variables of the process: pip's and npm's settings, `CXX`, `VIRTUAL_ENV`. */
  environment: Record<string, string | undefined>;
  /** Path of the Node that checks the result. */
  execPath: string;
  /** Called with lines to show: each stage with its time, and the hash that verified a download, if there was one. */
  onProgress?: (line: string) => void;
  /** Target folder. Default {@link tensorflowFolder}. */
  folder?: string;
}

/** The settings of a set-up stage, whose paths are all in `folder`. */
interface Stage
  extends Required<Pick<SetupTensorFlowOptions, 'gpu' | 'environment' | 'execPath' | 'onProgress'>> {
  folder: string;
  version?: string;
  nvidia?: boolean;
}

/**
 * Sets up native TensorFlow: package, library and addon in a separate folder. They are built in a temporary folder and
 * checked by a product in another process before they replace an earlier set-up. If a matching one is already there and
 * works, it is kept.
 *
 * @returns the present set-up
 * @throws TfjsLoraError naming what failed; an earlier set-up is kept then
 */
export async function setupTensorFlow(
  options: SetupTensorFlowOptions,
): Promise<TensorFlowSetup & TensorFlowCheck> {
  const {gpu = false, from = 'auto', version, nvidia, environment, execPath} = options;
  keepSecretsOf(environment);
  const onProgress = (line: string) => options.onProgress?.(maskSecrets(line));
  const folder = options.folder ?? (await tensorflowFolder());
  const stage: Stage = {folder, gpu, version, nvidia, environment, execPath, onProgress};
  const packageName = packageOf(stage);
  const present = await readSetup(folder);
  const isAsked =
    present?.package === packageName &&
    (version === undefined || present.version === version) &&
    (from === 'auto' || present.source === (isFolder(from) ? resolve(from) : from));
  if (present && isAsked) {
    const check = await checkTensorFlow(folder, present.package, execPath).catch((error: Error) => error);
    const hasHeaders = present.source !== 'wheel' || existsSync(join(folder, 'tensorflow', 'include'));
    const isCurrent = present.source === 'official' || present.context === (await contextSource()).hash;
    if (!(check instanceof Error) && (hasHeaders || (!gpu && isCurrent))) {
      onProgress(`TensorFlow ${present.version} is already set up in ${folder} and works.`);
      const current = isCurrent ? present : await withCurrentAddon(present, stage);
      return {...(await withCurrentFusedOps(current, stage)), ...check};
    }
    const fault =
      check instanceof Error
        ? `does not work (${check.message})`
        : gpu
          ? 'lacks the headers that fused ops on a card need'
          : 'was set up by another version of tfjs-lora';
    onProgress(`TensorFlow ${present.version} in ${folder} ${fault}: setting it up again.`);
  }
  const staged = `${folder}.new`;
  const aside = {...stage, folder: staged};
  const sources = sourcesOf(from, aside);
  const failures: string[] = [];
  for (const [source, install] of sources) {
    try {
      await rm(staged, {recursive: true, force: true});
      makeFolder(staged);
      const {libraries, context} = await install();
      const check = await timed(aside, 'check: a product in a separate process', () =>
        checkTensorFlow(staged, packageName, execPath),
      );
      const setup: TensorFlowSetup = {
        package: packageName,
        version: check.version,
        source,
        ...(libraries && {libraries}),
        ...(context && {context}),
        fusedOps: await makeFusedOps(source, aside),
      };
      await writeSetup(staged, setup);
      await replaceFolder(folder, staged);
      onProgress(`TensorFlow ${check.version} (${check.gpu ? 'GPU' : 'CPU'}) is set up in ${folder}.`);
      return {...setup, ...check};
    } catch (error) {
      await rm(staged, {recursive: true, force: true});
      if (sources.length === 1) throw error;
      failures.push(`${source}: ${(error as Error).message}`);
      onProgress(`${source} did not work: ${(error as Error).message.split('\n')[0]}`);
    }
  }
  throw new TfjsLoraError(
    'BACKEND_UNAVAILABLE',
    `setup tensorflow: expected one source to work, got:\n  ${failures.join('\n  ')}`,
  );
}

/** Compiles the addon again after an upgrade of this package changed its source. */
async function withCurrentAddon(present: TensorFlowSetup, stage: Stage): Promise<TensorFlowSetup> {
  const setup = {...present, context: await makeAddon(present.source, stage)};
  await writeSetup(stage.folder, setup);
  return setup;
}

/** Compiles the fused ops again if an upgrade of this package changed them. Nothing else is set up again. */
async function withCurrentFusedOps(present: TensorFlowSetup, stage: Stage): Promise<TensorFlowSetup> {
  const {folder, gpu, execPath} = stage;
  const {hash} = await fusedOpsSources(gpu);
  const areCurrent =
    present.fusedOps?.sources === hash &&
    (await checkFusedOps(folder, present.package, join(folder, FUSED_OPS_FILE), execPath).then(
      () => true,
      () => false,
    ));
  if (areCurrent) return present;
  const setup = {...present, fusedOps: await makeFusedOps(present.source, stage)};
  await writeSetup(folder, setup);
  return setup;
}

async function makeFusedOps(source: string, stage: Stage): Promise<FusedOpsSetup> {
  const {folder, gpu, environment, execPath, onProgress} = stage;
  const packageName = packageOf(stage);
  const library = await libraryOf(folder, packageName, source);
  const made = await timed(stage, 'fused ops: compiling', () =>
    buildFusedOps({folder, packageName, library, environment, execPath}),
  );
  if (made.missing) {
    const loss = gpu ? 'a card takes several times' : 'small models take up to twice';
    onProgress(`fused ops: left out; without them, ${loss} as long. ${made.missing}`);
  }
  return made;
}

/** Writes the description of a set-up atomically, by a rename. */
async function writeSetup(folder: string, setup: TensorFlowSetup): Promise<void> {
  const path = join(folder, SETUP_FILE);
  await writeFile(`${path}.new`, `${JSON.stringify(setup, null, 2)}\n`);
  await rename(`${path}.new`, path);
}

const isFolder = (from: string) => !['auto', 'official', 'wheel'].includes(from);

/** What an installation adds to the set-up's description. */
type Installed = Pick<TensorFlowSetup, 'libraries' | 'context'>;

/** A source, and a function that installs from it. */
type Source = [name: string, install: () => Promise<Installed>];

function sourcesOf(from: string, stage: Stage): Source[] {
  const {version} = stage;
  if (isFolder(from)) {
    const given = resolve(from);
    return [[given, () => installFromFolder(given, stage)]];
  }
  const official: Source = ['official', () => installOfficial(stage)];
  const wheel: Source = ['wheel', () => installFromWheel(stage)];
  const isOffered = version === undefined || version === OFFICIAL_TENSORFLOW;
  if (from === 'wheel') return [wheel];
  if (from === 'official' && !isOffered) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `setup tensorflow --version: expected ${OFFICIAL_TENSORFLOW}, the only version of the installer, got ${version}. ` +
        'Pass --from wheel.',
    );
  }
  if (from === 'official') return [official];
  return isOffered ? [official, wheel] : [wheel];
}

/** Installs the package with its own installer, which downloads TensorFlow's C library and the addon. */
async function installOfficial(stage: Stage): Promise<Installed> {
  stage.onProgress(
    'official: npm checks packages by the hashes of its registry; the library and the addon that the installer downloads have no ' +
      'hash to check. --from wheel checks the library.',
  );
  await timed(
    stage,
    `official: npm installs ${packageOf(stage)}, which downloads TensorFlow ${OFFICIAL_TENSORFLOW}`,
    () => installPackage(stage, []),
  );
  return {};
}

async function installFromWheel(stage: Stage): Promise<Installed> {
  const {folder, gpu, version, nvidia = true, environment, onProgress} = stage;
  const project = platform() === 'linux' && arch() === 'x64' && !gpu ? 'tensorflow-cpu' : 'tensorflow';
  await compilerOf(environment); // before anything large is downloaded
  const downloads = join(folder, 'downloads');
  await mkdir(downloads);
  const path = await timed(stage, `wheel: download of ${project} ${version ?? '(the newest)'}`, () =>
    fetchWheel({project, version, folder: downloads, environment, onProgress}),
  );
  const wheel = await ZipFile.open(path);
  try {
    await timed(stage, 'wheel: unpacking the library and its headers', () =>
      unpackLibrary(wheel, gpu ? CARD_HEADERS : HEADERS, folder),
    );
    if (gpu && nvidia) await installCuda(wheel, downloads, stage);
  } finally {
    await wheel.close();
  }
  await rm(downloads, {recursive: true});
  return {context: await installAddon('wheel', stage)};
}

/**
 * Unpacks `tensorflow/` beside `nvidia/`, as in Python, so that the library finds NVIDIA's by its own relative paths.
 */
async function unpackLibrary(wheel: ZipFile, headers: RegExp, folder: string): Promise<void> {
  const libraries = wheel.names.filter((name) =>
    /^tensorflow\/libtensorflow_\w+\.(so|\d+\.dylib)/.test(name),
  );
  if (libraries.filter((name) => /_(cc|framework)\./.test(name)).length < 2) {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `wheel: expected tensorflow/libtensorflow_cc and _framework in it, got ${libraries.join(', ') || 'neither'}. Wheels ` +
        `have them from ${OLDEST_WHEEL} on. Pass a later --version.`,
    );
  }
  for (const name of [...libraries, ...wheel.names.filter((each) => headers.test(each))]) {
    await wheel.extract(name, join(folder, name));
  }
}

/** Installs the NVIDIA libraries that a TensorFlow wheel requires, from their own wheels. */
async function installCuda(wheel: ZipFile, downloads: string, stage: Stage): Promise<void> {
  const {folder, environment, onProgress} = stage;
  const metadata = wheel.names.find((name) => name.endsWith('.dist-info/METADATA'));
  const needed = metadata ? cudaWheels(await wheel.text(metadata)) : [];
  if (needed.length === 0) {
    onProgress('wheel: it names no NVIDIA packages, so the libraries of the system are used.');
    return;
  }
  for (const {project, version} of needed) {
    await timed(stage, `NVIDIA: ${project} ${version}`, async () => {
      const archive = await ZipFile.open(
        await fetchWheel({project, version, folder: downloads, environment, onProgress}),
      );
      try {
        const kept = archive.names.filter((name) => /^nvidia\/.*(\.so(\.\d+)*|\/ptxas|\.bc)$/.test(name));
        for (const name of kept) {
          await archive.extract(name, join(folder, name));
          if (name.endsWith('/ptxas')) await chmod(join(folder, name), 0o755);
        }
      } finally {
        await archive.close();
      }
    });
  }
}

/** Installs with a TensorFlow that is already on disk, without copying it. */
async function installFromFolder(given: string, stage: Stage): Promise<Installed> {
  stage.onProgress(
    `${given}: used as it is; nothing of TensorFlow is downloaded, and there is no hash to check.`,
  );
  const library = await libraryOf(stage.folder, packageOf(stage), given);
  return {libraries: besideLibrary(library), context: await installAddon(given, stage)};
}

async function installAddon(source: string, stage: Stage): Promise<string> {
  await timed(stage, `npm: ${packageOf(stage)} ${PACKAGE_VERSION} without its installer`, () =>
    installPackage(stage, ['--ignore-scripts']),
  );
  return makeAddon(source, stage);
}

/** Compiles the addon and returns the hash of its own part. */
async function makeAddon(source: string, stage: Stage): Promise<string> {
  const {folder, environment} = stage;
  const name = packageOf(stage);
  const library = await libraryOf(folder, name, source);
  return timed(stage, 'addon: compiling', async () => {
    const hash = await buildAddon(join(folder, 'node_modules', name), library, environment);
    await buildCardLayer(folder, library, environment);
    return hash;
  });
}

const packageOf = ({gpu}: Stage): TensorFlowPackage =>
  gpu ? '@tensorflow/tfjs-node-gpu' : '@tensorflow/tfjs-node';

/** Installs the package with npm in a folder with its own package.json, without touching the user's. */
async function installPackage(stage: Stage, flags: string[]): Promise<void> {
  const {folder, environment} = stage;
  const name = packageOf(stage);
  const dependencies = {[name]: PACKAGE_VERSION};
  await writeFile(join(folder, 'package.json'), JSON.stringify({private: true, dependencies}));
  const args = ['install', '--no-audit', '--no-fund', '--no-package-lock', ...flags, NODE_API_HEADERS];
  try {
    await promisify(execFile)('npm', args, {
      cwd: folder,
      env: {...environment, npm_config_prefix: undefined},
      shell: platform() === 'win32',
      timeout: 900_000,
      maxBuffer: 1 << 26,
    });
  } catch (error) {
    const {stderr = '', message} = error as {stderr?: string; message: string};
    const lines = stderr.split('\n').filter((line) => /Error: |\bE[A-Z]{5,}\b|\bERR_[A-Z_]+/.test(line));
    throw new TfjsLoraError(
      'BACKEND_UNAVAILABLE',
      `npm install ${name}@${PACKAGE_VERSION}: expected success, got: ${
        lines
          .slice(0, 3)
          .map((line) => line.trim())
          .join(' | ') || message.split('\n')[0]
      }. Is its host reachable?`,
    );
  }
  // Its own copy of TensorFlow.js would be a second one in the process. Without it, the user's copy is found.
  const scope = join(folder, 'node_modules', '@tensorflow');
  for (const each of await readdir(scope)) {
    if (!each.startsWith('tfjs-node')) await rm(join(scope, each), {recursive: true});
  }
}

/** Replaces `folder` by `staged`. */
async function replaceFolder(folder: string, staged: string): Promise<void> {
  const old = `${folder}.old`;
  await rm(old, {recursive: true, force: true});
  makeFolder(dirname(folder));
  if (existsSync(folder)) await rename(folder, old);
  await rename(staged, folder);
  await rm(old, {recursive: true, force: true});
}

async function timed<T>({onProgress}: Stage, what: string, run: () => Promise<T>): Promise<T> {
  onProgress(`${what} …`);
  const started = performance.now();
  const result = await run();
  onProgress(`  ${((performance.now() - started) / 1000).toFixed(1)} s`);
  return result;
}
