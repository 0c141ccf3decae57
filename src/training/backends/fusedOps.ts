import {
  settingsOf,
  type TensorFlowBackend,
} from '../../../layers/kernels/tensorflow/device/tensorflowBackend.ts';
import {registerCardKernels} from '../../../layers/kernels/tensorflow/registerCardKernels.ts';
import {makeFolder} from '../../../quant/safetensors/makeFolder.ts';
import {fusedOpsSources} from './fusedOpsSources.ts';
import {cacheFolder} from './packageFolder.ts';
import {nodeModule} from './processor.ts';
import type {TensorFlowSetup} from './tensorflowFolder.ts';

/** The fused ops' addon, in the folder of the set-up; loading it registers them with TensorFlow. */
export const FUSED_OPS_FILE = 'fused_ops.node';

const COMMAND = 'npx tfjs-lora setup tensorflow';

/** The addon of a set-up for a card. */
interface CardAddon {
  useCardFolders(kernels: string, cache: string): void;
}

/** Set-up of the loaded package, and its folder; undefined for a package that the user installed. */
type Setup = {folder: string; made: TensorFlowSetup} | undefined;

/**
 * Lets a backend's kernels use the fused ops of its device, if these are set up and compiled from this package's
 * sources.
 *
 * @param setup set-up of the loaded package
 * @param isAsked whether to use them. Default: unchanged, or at first true unless `TFJS_LORA_FUSED_OPS` is 0
 * @returns the report's words about them
 */
export async function chooseFusedOps(
  backend: TensorFlowBackend,
  setup: Setup,
  isAsked?: boolean,
): Promise<string> {
  const {TFJS_LORA_FUSED_OPS} = globalThis.process.env;
  const settings = settingsOf(backend);
  const isWanted = isAsked ?? settings.wantsFusedOps ?? TFJS_LORA_FUSED_OPS !== '0';
  const onCard = Boolean(backend.isUsingGpuDevice);
  const where = onCard ? ' on the card' : '';
  const missing = isWanted ? await start(backend, setup) : undefined;
  const isOn = isWanted && missing === undefined;
  Object.assign(settings, {
    wantsFusedOps: isWanted,
    hasFusedOps: isOn && !onCard,
    hasCardOps: isOn && onCard,
  });
  registerCardKernels(backend);
  if (isOn) return `fused ops${where}`;
  return missing === undefined ? `fused ops${where} off` : `no fused ops${where}: ${missing}`;
}

/**
 * Starts the fused ops.
 *
 * @returns why they do not run; undefined when they do
 */
async function start(backend: TensorFlowBackend, setup: Setup): Promise<string | undefined> {
  const onCard = backend.isUsingGpuDevice;
  const command = onCard || setup?.made.package.endsWith('-gpu') ? `${COMMAND} --gpu` : COMMAND;
  if (!setup) return `${command} compiles them with a TensorFlow of its own`;
  const {folder, made} = setup;
  const forCard = made.package.endsWith('-gpu');
  const {missing, sources} = made.fusedOps ?? {};
  if (missing) return `${missing} Then run ${command} again`;
  if (!sources) return `run ${command}`;
  if (sources !== (await fusedOpsSources(forCard)).hash)
    return `they belong to another version of tfjs-lora; run ${command}`;
  const {createRequire} = await nodeModule<typeof import('node:module')>('module');
  const {join} = await nodeModule<typeof import('node:path')>('path');
  try {
    const addon = createRequire(import.meta.url)(join(folder, FUSED_OPS_FILE));
    return onCard ? await startOnCard(backend, addon) : undefined;
  } catch (error) {
    return `they do not load (${(error as Error).message.split('\n')[0]}); run ${command}`;
  }
}

/** Runs an op on the card, which opens the libraries that the ops need and compiles its kernel. */
async function startOnCard(backend: TensorFlowBackend, addon: CardAddon): Promise<string | undefined> {
  const {kernels, cache} = await cardFolders();
  try {
    makeFolder(cache);
  } catch {
    // Without the folder, each process compiles the kernels.
  }
  addon.useCardFolders(kernels, cache);
  const {binding} = backend;
  const ids = [binding.createTensor([8], 1, new Float32Array(8).fill(2))];
  try {
    const epsilon = {name: 'epsilon', type: binding.TF_ATTR_FLOAT, value: 0};
    const outputs = binding.executeOp('TfjsLoraRMSNorm', [epsilon], [ids[0], ids[0]], 2);
    ids.push(...outputs.map(({id}) => id));
    return undefined;
  } catch (error) {
    return (error as Error).message.split('\n')[0];
  } finally {
    for (const id of ids) binding.deleteTensor(id);
  }
}

/**
 * Returns the folders of the sources of a card's kernels and of the compiled ones; each is compiled at its first use.
 */
export async function cardFolders(): Promise<{kernels: string; cache: string}> {
  const {join} = await nodeModule<typeof import('node:path')>('path');
  const {folder} = await fusedOpsSources();
  return {kernels: join(folder, 'cuda/kernels'), cache: join(await cacheFolder(), 'cuda')};
}
