import {readdir, rename, rm} from 'node:fs/promises';
import {arch, platform} from 'node:os';
import {join} from 'node:path';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {FUSED_OPS_FILE} from '../../training/backends/fusedOps.ts';
import {fusedOpsSources} from '../../training/backends/fusedOpsSources.ts';
import type {FusedOpsSetup, TensorFlowPackage} from '../../training/backends/tensorflowFolder.ts';
import {checkFusedOps} from './checkTensorFlow.ts';
import {compileAddon} from './compileAddon.ts';
import {besideLibrary, type TensorFlowLibrary} from './tensorFlowLibrary.ts';

/** Every processor of arm64 has what they need; of x64, those since 2013, which the ops look for when they are loaded. */
const FLAGS: Record<string, string[] | undefined> = {x64: ['-mavx2', '-mfma'], arm64: []};

/** The one source that includes TensorFlow's own headers, and what they need. */
const [STREAM_SOURCE, STREAM_FLAGS] = ['cuda/stream.cc', ['-std=c++20', '-w']];
const STREAM_HEADERS = ['tensorflow/core/framework/op_kernel.h', 'xla/stream_executor/stream.h'];

/** Where the fused ops go, and with what they are made and tried. */
export interface FusedOpsBuild {
  /** A set-up of TensorFlow that works. */
  folder: string;
  packageName: TensorFlowPackage;
  library: TensorFlowLibrary;
  environment: Record<string, string | undefined>;
  execPath: string;
}

/**
 * Compiles the fused ops and runs one in a process of its own, before they take the place of those that were there. With
 * `@tensorflow/tfjs-node-gpu` those of a graphics card are among them, and one runs there where there is one. They are an extra:
 * what this returns says what failed, and then there are none.
 */
export async function buildFusedOps(build: FusedOpsBuild): Promise<FusedOpsSetup> {
  const {folder, packageName, library, environment, execPath} = build;
  const output = join(folder, FUSED_OPS_FILE);
  const fresh = join(folder, `new-${FUSED_OPS_FILE}`);
  const forCard = packageName.endsWith('-gpu');
  try {
    const flags = FLAGS[arch()];
    if (!flags || platform() === 'win32') {
      throw new TfjsLoraError(
        'UNSUPPORTED',
        `fused ops: expected Linux or macOS on x64 or arm64, got ${platform()} on ${arch()}.`,
      );
    }
    if (forCard && platform() !== 'linux')
      throw new TfjsLoraError('UNSUPPORTED', `fused ops on a card: expected Linux, got ${platform()}.`);
    const {folder: native, files, flags: common, hash} = await fusedOpsSources(forCard);
    const addon = {
      name: 'the fused ops',
      sources: files.map((name) => join(native, name)),
      headers: forCard ? STREAM_HEADERS : [],
      flags: [...common, ...flags, ...(forCard ? ['-DTFJS_LORA_CARD'] : [])],
      flagsOf: (source: string) => (source.endsWith(STREAM_SOURCE) ? STREAM_FLAGS : []),
      libraryFolders: forCard ? await cudaFolders(besideLibrary(library)) : [],
      version: 8,
      output: fresh,
    };
    await compileAddon(addon, library, folder, environment);
    await checkFusedOps(folder, packageName, fresh, execPath);
    await rename(fresh, output);
    return {sources: hash};
  } catch (error) {
    for (const file of [fresh, output]) await rm(file, {force: true});
    return {missing: (error as Error).message};
  }
}

/** Where NVIDIA's libraries are that are set up with TensorFlow; the ops load some that TensorFlow does not. */
async function cudaFolders(folder: string): Promise<string[]> {
  const nvidia = join(folder, 'nvidia');
  const packages = await readdir(nvidia).catch(() => []);
  return packages.sort().map((each) => join(nvidia, each, 'lib'));
}
