import {nodeModule} from './processor.ts';

/** Packages with TensorFlow's C library for Node: first the one for graphics cards. */
export const TENSORFLOW_PACKAGES = ['@tensorflow/tfjs-node-gpu', '@tensorflow/tfjs-node'] as const;
export type TensorFlowPackage = (typeof TENSORFLOW_PACKAGES)[number];

/** Result of setting up the fused ops. */
export interface FusedOpsSetup {
  /** Hash of the sources they were compiled from. */
  sources?: string;
  /** Why they are missing. */
  missing?: string;
}

/** Contents of `setup.json` in {@link tensorflowFolder}, which describe the result of `tfjs-lora setup tensorflow`. */
export interface TensorFlowSetup {
  package: TensorFlowPackage;
  /** Version of TensorFlow. */
  version: string;
  /** Origin of its library: `official`, `wheel`, or a folder. */
  source: string;
  /** Folder that contains `nvidia/<package>/lib`, unless it is the set-up's own folder. */
  libraries?: string;
  /** Hash of the source with which the addon can join a cluster; undefined for an addon that npm downloaded. */
  context?: string;
  fusedOps?: FusedOpsSetup;
}

export const SETUP_FILE = 'setup.json';

/**
 * Returns the folder where `tfjs-lora setup tensorflow` installs TensorFlow: `.tfjs-lora/tensorflow` in the
 * `node_modules` that contains `@tensorflow/tfjs`, so that both use one copy of TensorFlow.js.
 */
export async function tensorflowFolder(): Promise<string> {
  const {createRequire} = await nodeModule<typeof import('node:module')>('module');
  const {join, sep} = await nodeModule<typeof import('node:path')>('path');
  const entry = createRequire(import.meta.url).resolve('@tensorflow/tfjs');
  const packageFolder = `${sep}${join('node_modules', '@tensorflow', 'tfjs')}${sep}`;
  const modules = entry.slice(0, entry.lastIndexOf(packageFolder) + `${sep}node_modules`.length);
  return join(modules, '.tfjs-lora', 'tensorflow');
}

/** Reads what was set up in that folder; undefined when nothing was. */
export async function readSetup(folder: string): Promise<TensorFlowSetup | undefined> {
  const {readFile} = await nodeModule<typeof import('node:fs/promises')>('fs/promises');
  const {join} = await nodeModule<typeof import('node:path')>('path');
  const text = await readFile(join(folder, SETUP_FILE), 'utf8').catch(() => undefined);
  return text === undefined ? undefined : (JSON.parse(text) as TensorFlowSetup);
}
