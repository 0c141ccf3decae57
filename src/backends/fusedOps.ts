import {
  hasFusedOps,
  setFusedOps,
  type TensorFlowBackend,
} from '../../layers/kernels/tensorflow/tensorflowBackend.ts';
import {fusedOpsSources} from './fusedOpsSources.ts';
import {nodeModule} from './processor.ts';
import type {TensorFlowSetup} from './tensorflowFolder.ts';

/** Their addon, in the folder of the set-up: loading it registers them with TensorFlow. */
export const FUSED_OPS_FILE = 'fused_ops.node';

const COMMAND = 'npx tfjs-lora setup tensorflow';

/** What was last asked of a backend. */
const wanted = new WeakMap<object, boolean>();

/**
 * Has the kernels of a backend on the processor use the fused ops, where they are set up and of this package's sources.
 *
 * @param setup what the package that was loaded was set up as, and where; undefined for a package of the user's own
 * @param isAsked default: as before, else true unless `TFJS_LORA_FUSED_OPS` is 0
 * @returns what the report says of them
 */
export async function chooseFusedOps(
  backend: TensorFlowBackend,
  setup: {folder: string; made: TensorFlowSetup} | undefined,
  isAsked?: boolean,
): Promise<string> {
  const {TFJS_LORA_FUSED_OPS} = globalThis.process.env;
  const isWanted = isAsked ?? wanted.get(backend) ?? TFJS_LORA_FUSED_OPS !== '0';
  wanted.set(backend, isWanted);
  const why = isWanted ? await load(setup) : undefined;
  setFusedOps(backend, isWanted && !why);
  if (hasFusedOps(backend)) return 'fused ops';
  return why ? `no fused ops: ${why}` : 'fused ops off';
}

/** @returns why they are not; undefined when they are loaded */
async function load(setup: {folder: string; made: TensorFlowSetup} | undefined): Promise<string | undefined> {
  if (!setup) return `${COMMAND} would compile them, for a TensorFlow of its own`;
  const {folder, made} = setup;
  if (made.package.endsWith('-gpu')) return `this TensorFlow was set up for a card; run ${COMMAND}`;
  const {missing, sources} = made.fusedOps ?? {};
  if (missing) return `${missing} Then run ${COMMAND} again`;
  if (!sources) return `run ${COMMAND}`;
  if (sources !== (await fusedOpsSources()).hash) return `they are not this tfjs-lora’s; run ${COMMAND}`;
  const {createRequire} = await nodeModule<typeof import('node:module')>('module');
  const {join} = await nodeModule<typeof import('node:path')>('path');
  try {
    createRequire(import.meta.url)(join(folder, FUSED_OPS_FILE));
    return undefined;
  } catch (error) {
    return `they do not load (${(error as Error).message.split('\n')[0]}); run ${COMMAND}`;
  }
}
