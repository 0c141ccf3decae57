import type {TuningStore} from '../../../layers/kernels/webgpu/device/tuning.ts';
import {warn} from '../../../quant/warn.ts';
import {cacheFolder} from './packageFolder.ts';
import {isNode, nodeModule} from './processor.ts';

/** Under which a browser keeps it. */
const NAME = 'tfjs-lora.tuning';

/**
 * Keeps what was measured in `tfjs-lora/tuning.json` of the user's cache folder (`XDG_CACHE_HOME`, or `~/.cache`), in a browser in
 * its local storage. What cannot be read is warned of, and measured again; so is what cannot be written.
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
      warn(`useBackend tune: the measurements are not kept: ${(error as Error).message}`);
    }
  },
};

/** @throws Error for what {@link tuningFile} did not write */
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
  const {mkdir, rename, writeFile} = await nodeModule<typeof import('node:fs/promises')>('fs/promises');
  const {dirname} = await nodeModule<typeof import('node:path')>('path');
  const file = await path();
  await mkdir(dirname(file), {recursive: true});
  const partial = `${file}.${process.pid}`; // another process may read it right now
  await writeFile(partial, text);
  await rename(partial, file);
}

async function path(): Promise<string> {
  const {join} = await nodeModule<typeof import('node:path')>('path');
  return join(await cacheFolder(), 'tuning.json');
}
