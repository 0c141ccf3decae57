import {existsSync, statSync} from 'node:fs';
import {join, resolve} from 'node:path';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {HUB_ID} from '../../data/hub/fetchSnapshot.ts';
import type {HubOptions} from '../../data/hub/hubOptions.ts';
import {fetchModelFolder} from '../../data/hub/resolveModelFolder.ts';
import {checkpointFolder, checkpointSteps} from '../../training/output/checkpointFolder.ts';

const KEY = 'adapter_name_or_path';
const CONFIG = 'adapter_config.json';
const EXPECTED = `expected the folder of an adapter (${CONFIG}, adapter_model.safetensors)`;

export interface AdapterFolderOptions extends HubOptions {
  revision?: string;
  /** The key or option that names the adapter. Default `adapter_name_or_path`. */
  key?: string;
}

/**
 * The local folder of an adapter: a folder as it is, or a repository of the hub, fetched into the hub's cache. A name that
 * is plainly a path is not asked of the hub; what the cache holds under it serves.
 *
 * @throws TfjsLoraError `FILE_NOT_FOUND` for what is neither, and for a folder that holds no adapter; `NETWORK` when the
 *   hub cannot be reached
 */
export async function adapterFolder(
  nameOrPath: string,
  {key = KEY, ...options}: AdapterFolderOptions = {},
): Promise<string> {
  if (isFolder(nameOrPath)) {
    assertHoldsAdapter(nameOrPath, key);
    return nameOrPath;
  }
  const got = `got no folder at ${resolve(nameOrPath)}`;
  if (!HUB_ID.test(nameOrPath)) {
    throw new TfjsLoraError('FILE_NOT_FOUND', `${key} ${nameOrPath}: ${EXPECTED}, ${got}. ${CHECK_PATH}`);
  }
  const isPath = looksLikePath(nameOrPath);
  try {
    return await fetchModelFolder(nameOrPath, {...options, ...(isPath && {offline: true})}, 'adapter');
  } catch (cause) {
    if (!(cause instanceof TfjsLoraError) || !['FILE_NOT_FOUND', 'NETWORK'].includes(cause.code)) throw cause;
    const message = isPath
      ? `${key} ${nameOrPath}: ${EXPECTED}, ${got}. ${CHECK_PATH} To use an adapter on the hub with this name, ` +
        `download it first (tfjs-lora download ${nameOrPath}).`
      : `${key} ${nameOrPath}: ${EXPECTED} or the name of an adapter on the hub, ${got}, and none on the hub: ` +
        cause.message;
    throw new TfjsLoraError(isPath ? 'FILE_NOT_FOUND' : cause.code, message, {cause});
  }
}

const CHECK_PATH = 'Check the path and the current folder, or train the adapter first.';

/** The checkpoint of a run that its adapter can be taken from; undefined without one. */
export function newestAdapterCheckpoint(outputDir: string): string | undefined {
  return checkpointSteps(outputDir)
    .map((step) => checkpointFolder(outputDir, step))
    .filter((folder) => existsSync(join(folder, CONFIG)))
    .at(-1);
}

/** A run writes its adapter at its end: before that, its folder has checkpoints alone. */
function assertHoldsAdapter(folder: string, key: string): void {
  if (existsSync(join(folder, CONFIG))) return;
  const hasCheckpoints = checkpointSteps(folder).length > 0;
  const checkpoint = newestAdapterCheckpoint(folder);
  const got = hasCheckpoints ? 'checkpoints of an unfinished run' : `no ${CONFIG} in it`;
  const advice =
    checkpoint === undefined
      ? 'Name the output folder of a training.'
      : `Finish the run, or use ${key === KEY ? `${KEY}=` : ''}${checkpoint}.`;
  throw new TfjsLoraError('FILE_NOT_FOUND', `${key} ${folder}: ${EXPECTED}, got ${got}. ${advice}`);
}

/** Whether a name that the hub could have is plainly a path: of an output folder, or into a folder that is here. */
function looksLikePath(name: string): boolean {
  const [first, ...rest] = name.split('/');
  return rest.length > 0 && (/^(saves|outputs?|checkpoints?)$/.test(first) || isFolder(first));
}

const isFolder = (path: string) => statSync(path, {throwIfNoEntry: false})?.isDirectory() ?? false;
