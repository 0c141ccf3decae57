import {packageFolder} from './packageFolder.ts';
import {nodeModule} from './processor.ts';

/**
 * Returns the C++ sources that let the addon's TensorFlow join a cluster, and their hash, by which an addon that was
 * compiled with others is recognized.
 */
export async function contextSource(): Promise<{paths: string[]; hash: string}> {
  const {readdir, readFile} = await nodeModule<typeof import('node:fs/promises')>('fs/promises');
  const {join} = await nodeModule<typeof import('node:path')>('path');
  const {createHash} = await nodeModule<typeof import('node:crypto')>('crypto');
  const folder = join(await packageFolder(), 'layers/kernels/tensorflow/native/context');
  const paths = (await readdir(folder)).sort().map((name) => join(folder, name));
  const hash = createHash('sha256');
  for (const path of paths) hash.update(await readFile(path));
  const sources = paths.filter((path) => path.endsWith('.cc'));
  return {paths: sources, hash: hash.digest('hex').slice(0, 16)};
}
