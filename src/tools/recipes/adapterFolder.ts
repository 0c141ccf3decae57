import {existsSync, statSync} from 'node:fs';
import {join, resolve} from 'node:path';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {didYouMeanPath} from '../../../quant/folders/similarPath.ts';
import {HUB_ID} from '../../data/hub/fetchSnapshot.ts';
import type {HubOptions} from '../../data/hub/hubOptions.ts';
import {fetchModelFolder} from '../../data/hub/resolveModelFolder.ts';
import {checkpointFolder, checkpointSteps} from '../../training/output/checkpointFolder.ts';
import {openRunFolder} from '../../training/output/diskRunFolder.ts';

const KEY = 'adapter_name_or_path';
const CONFIG = 'adapter_config.json';
const EXPECTED = `expected the folder of an adapter (${CONFIG}, adapter_model.safetensors)`;

export interface AdapterFolderOptions extends HubOptions {
  revision?: string;
  /** Key or option that names the adapter, for messages. Default `adapter_name_or_path`. */
  key?: string;
}

/**
 * Returns the local folder of an adapter: a given folder itself, or the cached copy of a repository on the hub, which
 * is downloaded if necessary. A name that is clearly a path is never downloaded, but it may name a repository in the
 * cache.
 *
 * @throws TfjsLoraError `FILE_NOT_FOUND` for a name that is neither, and for a folder without an adapter; `NETWORK`
 *   when the hub cannot be reached
 */
export async function adapterFolder(
  nameOrPath: string,
  {key = KEY, ...options}: AdapterFolderOptions = {},
): Promise<string> {
  if (isFolder(nameOrPath)) {
    await assertHoldsAdapter(nameOrPath, key);
    return nameOrPath;
  }
  const got = `got no folder at ${resolve(nameOrPath)}`;
  const similar = didYouMeanPath(nameOrPath);
  if (!HUB_ID.test(nameOrPath)) {
    throw new TfjsLoraError(
      'FILE_NOT_FOUND',
      `${key} ${nameOrPath}: ${EXPECTED}, ${got}. ${CHECK_PATH}${similar}`,
    );
  }
  const isPath = looksLikePath(nameOrPath);
  try {
    return await fetchModelFolder(nameOrPath, {...options, ...(isPath && {offline: true})}, 'adapter');
  } catch (cause) {
    if (!(cause instanceof TfjsLoraError) || !['FILE_NOT_FOUND', 'NETWORK'].includes(cause.code)) throw cause;
    const message = isPath
      ? `${key} ${nameOrPath}: ${EXPECTED}, ${got}. ${CHECK_PATH} To use an adapter on the hub with this name, ` +
        `download it first (tfjs-lora download ${nameOrPath}).${similar}`
      : `${key} ${nameOrPath}: ${EXPECTED} or the name of an adapter on the hub, ${got}, and none on the hub: ` +
        `${cause.message}${similar}`;
    throw new TfjsLoraError(isPath ? 'FILE_NOT_FOUND' : cause.code, message, {cause});
  }
}

const CHECK_PATH = 'Check the path and the current folder, or train the adapter first.';

/** Returns a run's newest checkpoint that contains an adapter, or undefined if there is none. */
export async function newestAdapterCheckpoint(outputDir: string): Promise<string | undefined> {
  const folder = openRunFolder(outputDir);
  return (await checkpointSteps(folder))
    .map((step) => checkpointFolder(folder, step).path)
    .filter((path) => existsSync(join(path, CONFIG)))
    .at(-1);
}

/** Refuses a folder without an adapter. A run writes its adapter at the end; until then there are only checkpoints. */
async function assertHoldsAdapter(folder: string, key: string): Promise<void> {
  if (existsSync(join(folder, CONFIG))) return;
  const hasCheckpoints = (await checkpointSteps(openRunFolder(folder))).length > 0;
  const checkpoint = await newestAdapterCheckpoint(folder);
  const got = hasCheckpoints ? 'checkpoints of an unfinished run' : `no ${CONFIG} in it`;
  const advice =
    checkpoint === undefined
      ? 'Name the output folder of a training.'
      : `Finish the run, or use ${key === KEY ? `${KEY}=` : ''}${checkpoint}.`;
  throw new TfjsLoraError('FILE_NOT_FOUND', `${key} ${folder}: ${EXPECTED}, got ${got}. ${advice}`);
}

/** Whether a valid hub name is clearly a path: one into a usual output folder, or into a folder that exists. */
function looksLikePath(name: string): boolean {
  const [first, ...rest] = name.split('/');
  return rest.length > 0 && (/^(saves|outputs?|checkpoints?)$/.test(first) || isFolder(first));
}

const isFolder = (path: string) => statSync(path, {throwIfNoEntry: false})?.isDirectory() ?? false;
