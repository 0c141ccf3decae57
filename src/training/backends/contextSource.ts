import {packageFolder} from './packageFolder.ts';
import {nodeModule} from './processor.ts';

/**
 * Returns the C++ source that lets the addon's TensorFlow join a cluster, and its hash, by which an addon that was
 * compiled with another one is recognized.
 */
export async function contextSource(): Promise<{path: string; hash: string}> {
  const {readFile} = await nodeModule<typeof import('node:fs/promises')>('fs/promises');
  const {join} = await nodeModule<typeof import('node:path')>('path');
  const {createHash} = await nodeModule<typeof import('node:crypto')>('crypto');
  const path = join(await packageFolder(), 'layers/kernels/tensorflow/native/context/new_context.cc');
  const hash = createHash('sha256').update(await readFile(path));
  return {path, hash: hash.digest('hex').slice(0, 16)};
}
