import type {TuningStore} from '../../../layers/kernels/webgpu/device/tuning.ts';
import {makeFolder} from '../../../quant/safetensors/makeFolder.ts';
import {warn} from '../../../quant/warn.ts';
import {cacheFolder} from './packageFolder.ts';
import {isNode, nodeModule} from './processor.ts';

/** Key in a browser's local storage. */
const NAME = 'tfjs-lora.tuning';

/**
 * Stores measurements in `tfjs-lora/tuning.json` of the user's cache folder (`XDG_CACHE_HOME`, or `~/.cache`), or in
 * local storage in a browser. A file that cannot be read or written causes a warning, and the measurements are made
 * again.
 */
export const tuningFile: TuningStore = {
  async load() {
    try {
      const text = await readText();
      return text === undefined ? {} : parse(text);
    } catch (error) {
      warn(`useBackend tune: earlier measurements are not used: ${(error as Error).message}`);
      return {};
    }
  },
  async save(choices) {
    try {
      await writeText(`${JSON.stringify({choices}, null, 1)}\n`);
    } catch (error) {
      warn(`useBackend tune: the measurements could not be stored: ${(error as Error).message}`);
    }
  },
};

/**
 * Parses stored measurements.
 *
 * @throws Error for a text that {@link tuningFile} did not write
 */
function parse(text: string): Record<string, string> {
  const {choices} = (JSON.parse(text) ?? {}) as {choices?: unknown};
  const isMap = typeof choices === 'object' && choices !== null && !Array.isArray(choices);
  if (!isMap || Object.values(choices).some((name) => typeof name !== 'string'))
    throw new Error('expected {"choices": names of candidates by shape}, got something else');
  return choices as Record<string, string>;
}

async function readText(): Promise<string | undefined> {
  if (!isNode()) return globalThis.localStorage?.getItem(NAME) ?? undefined;
  const {readFile} = await nodeModule<typeof import('node:fs/promises')>('fs/promises');
  try {
    return await readFile(await path(), 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}

async function writeText(text: string): Promise<void> {
  if (!isNode()) {
    globalThis.localStorage?.setItem(NAME, text);
    return;
  }
  const {rename, writeFile} = await nodeModule<typeof import('node:fs/promises')>('fs/promises');
  const {dirname} = await nodeModule<typeof import('node:path')>('path');
  const file = await path();
  makeFolder(dirname(file));
  const partial = `${file}.${process.pid}`; // another process may be reading it now
  await writeFile(partial, text);
  await rename(partial, file);
}

async function path(): Promise<string> {
  const {join} = await nodeModule<typeof import('node:path')>('path');
  return join(await cacheFolder(), 'tuning.json');
}
