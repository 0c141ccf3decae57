import {
  settingsOf,
  type TensorFlowBackend,
} from '../../../layers/kernels/tensorflow/device/tensorflowBackend.ts';
import {registerCardKernels} from '../../../layers/kernels/tensorflow/registerCardKernels.ts';
import {fusedOpsSources} from './fusedOpsSources.ts';
import {cacheFolder} from './packageFolder.ts';
import {nodeModule} from './processor.ts';
import type {TensorFlowSetup} from './tensorflowFolder.ts';

/** Their addon, in the folder of the set-up: loading it registers them with TensorFlow. */
export const FUSED_OPS_FILE = 'fused_ops.node';

const COMMAND = 'npx tfjs-lora setup tensorflow';

/** The addon, of a set-up for a card. */
interface CardAddon {
  useCardFolders(kernels: string, cache: string): void;
}

/** What a package that was loaded was set up as, and where; undefined for a package of the user's own. */
type Setup = {folder: string; made: TensorFlowSetup} | undefined;

/**
 * Has the kernels of a backend use the fused ops of its device, where they are set up and of this package's sources.
 *
 * @param setup what the package that was loaded was set up as
 * @param isAsked default: as before, else true unless `TFJS_LORA_FUSED_OPS` is 0
 * @returns what the report says of them
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

/** @returns why they do not run; undefined when they do */
async function start(backend: TensorFlowBackend, setup: Setup): Promise<string | undefined> {
  const onCard = backend.isUsingGpuDevice;
  const command = onCard || setup?.made.package.endsWith('-gpu') ? `${COMMAND} --gpu` : COMMAND;
  if (!setup) return `${command} would compile them, for a TensorFlow of its own`;
  const {folder, made} = setup;
  const forCard = made.package.endsWith('-gpu');
  const {missing, sources} = made.fusedOps ?? {};
  if (missing) return `${missing} Then run ${command} again`;
  if (!sources) return `run ${command}`;
  if (sources !== (await fusedOpsSources(forCard)).hash)
    return `they are not this tfjs-lora’s; run ${command}`;
  const {createRequire} = await nodeModule<typeof import('node:module')>('module');
  const {join} = await nodeModule<typeof import('node:path')>('path');
  try {
    const addon = createRequire(import.meta.url)(join(folder, FUSED_OPS_FILE));
    return onCard ? await startOnCard(backend, addon) : undefined;
  } catch (error) {
    return `they do not load (${(error as Error).message.split('\n')[0]}); run ${command}`;
  }
}

/** Runs one on the card, which opens the libraries that they need and compiles its kernel. */
async function startOnCard(backend: TensorFlowBackend, addon: CardAddon): Promise<string | undefined> {
  const {kernels, cache} = await cardFolders();
  const {mkdir} = await nodeModule<typeof import('node:fs/promises')>('fs/promises');
  await mkdir(cache, {recursive: true}).catch(() => {}); // without it they are compiled in each process
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

/** Where the sources of a card's kernels are, and where they are kept once compiled, which the first use of each does. */
export async function cardFolders(): Promise<{kernels: string; cache: string}> {
  const {join} = await nodeModule<typeof import('node:path')>('path');
  const {folder} = await fusedOpsSources();
  return {kernels: join(folder, 'cuda/kernels'), cache: join(await cacheFolder(), 'cuda')};
}
