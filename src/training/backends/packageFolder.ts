import {nodeModule} from './processor.ts';

/** Returns this package's folder, in Node: a checkout, or `node_modules/tfjs-lora`. */
export async function packageFolder(): Promise<string> {
  const {createRequire} = await nodeModule<typeof import('node:module')>('module');
  const {dirname} = await nodeModule<typeof import('node:path')>('path');
  return dirname(createRequire(import.meta.url).resolve('tfjs-lora/package.json'));
}

/**
 * Returns the folder for reproducible files: `tfjs-lora` in the user's cache folder (`XDG_CACHE_HOME`, or `~/.cache`).
 * It may not exist yet.
 */
export async function cacheFolder(): Promise<string> {
  const {join} = await nodeModule<typeof import('node:path')>('path');
  const {homedir} = await nodeModule<typeof import('node:os')>('os');
  return join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'tfjs-lora');
}
