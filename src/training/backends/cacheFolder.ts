import {nodeModule} from './processor.ts';

/** What can be made again: `tfjs-lora` in the user's cache folder (`XDG_CACHE_HOME`, or `~/.cache`). It need not exist. */
export async function cacheFolder(): Promise<string> {
  const {join} = await nodeModule<typeof import('node:path')>('path');
  const {homedir} = await nodeModule<typeof import('node:os')>('os');
  return join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'tfjs-lora');
}
