import {nodeModule} from './processor.ts';

/** Where this package is, in Node: a checkout, or `node_modules/tfjs-lora`. */
export async function packageFolder(): Promise<string> {
  const {createRequire} = await nodeModule<typeof import('node:module')>('module');
  const {dirname} = await nodeModule<typeof import('node:path')>('path');
  return dirname(createRequire(import.meta.url).resolve('tfjs-lora/package.json'));
}
