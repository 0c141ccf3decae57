import {nodeModule} from './processor.ts';

/** The packages that bring TensorFlow's C library to Node: for graphics cards, and without. */
export const TENSORFLOW_PACKAGES = ['@tensorflow/tfjs-node-gpu', '@tensorflow/tfjs-node'] as const;
export type TensorFlowPackage = (typeof TENSORFLOW_PACKAGES)[number];

/** What became of the fused ops. */
export interface FusedOpsSetup {
  /** Hash of the sources they are compiled from. */
  sources?: string;
  /** Why there are none. */
  missing?: string;
}

/** What `tfjs-lora setup tensorflow` made; `setup.json` in {@link tensorflowFolder}. */
export interface TensorFlowSetup {
  package: TensorFlowPackage;
  /** TensorFlow's. */
  version: string;
  /** Where its library came from: `official`, `wheel`, or a folder. */
  source: string;
  /** Holds `nvidia/<package>/lib`, where that is not the folder itself. */
  libraries?: string;
  fusedOps?: FusedOpsSetup;
}

export const SETUP_FILE = 'setup.json';

/**
 * Where `tfjs-lora setup tensorflow` puts TensorFlow: `.tfjs-lora/tensorflow` in the `node_modules` that holds
 * `@tensorflow/tfjs`, so that both use one copy of TensorFlow.js.
 */
export async function tensorflowFolder(): Promise<string> {
  const {createRequire} = await nodeModule<typeof import('node:module')>('module');
  const {join, sep} = await nodeModule<typeof import('node:path')>('path');
  const entry = createRequire(import.meta.url).resolve('@tensorflow/tfjs');
  const packageFolder = `${sep}${join('node_modules', '@tensorflow', 'tfjs')}${sep}`;
  const modules = entry.slice(0, entry.lastIndexOf(packageFolder) + `${sep}node_modules`.length);
  return join(modules, '.tfjs-lora', 'tensorflow');
}

/** What was set up in that folder; undefined when nothing was. */
export async function readSetup(folder: string): Promise<TensorFlowSetup | undefined> {
  const {readFile} = await nodeModule<typeof import('node:fs/promises')>('fs/promises');
  const {join} = await nodeModule<typeof import('node:path')>('path');
  const text = await readFile(join(folder, SETUP_FILE), 'utf8').catch(() => undefined);
  return text === undefined ? undefined : (JSON.parse(text) as TensorFlowSetup);
}
