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

/**
 * Compiler flags for the instructions that the ops need. Every arm64 processor has them; x64 processors have them since
 * 2013, and the ops check for them when they are loaded.
 */
const FLAGS: Record<string, string[] | undefined> = {x64: ['-mavx2', '-mfma'], arm64: []};

/** The only source that includes TensorFlow's own headers, and the flags for it. */
const [STREAM_SOURCE, STREAM_FLAGS] = ['cuda/stream.cc', ['-std=c++20', '-w']];
const STREAM_HEADERS = ['tensorflow/core/framework/op_kernel.h', 'xla/stream_executor/stream.h'];

/** The target of the fused ops, and the tools that compile and test them. */
export interface FusedOpsBuild {
  /** Folder of a TensorFlow that is set up and works. */
  folder: string;
  packageName: TensorFlowPackage;
  library: TensorFlowLibrary;
  environment: Record<string, string | undefined>;
  execPath: string;
}

/**
 * Compiles the fused ops and runs one of them in a separate process before they replace the earlier ones. With
 * `@tensorflow/tfjs-node-gpu`, they include ops for a graphics card, one of which also runs if there is a card. The
 * fused ops are optional: after a failure there are none, and the result says what failed.
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

/** Finds the NVIDIA libraries that were set up with TensorFlow. The ops load some that TensorFlow does not. */
async function cudaFolders(folder: string): Promise<string[]> {
  const nvidia = join(folder, 'nvidia');
  const packages = await readdir(nvidia).catch(() => []);
  return packages.sort().map((each) => join(nvidia, each, 'lib'));
}
