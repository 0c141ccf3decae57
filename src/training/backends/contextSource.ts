import {packageFolder} from './packageFolder.ts';
import {nodeModule} from './processor.ts';

/**
 * Returns the C++ sources that let the addon's TensorFlow join a cluster, the source and the manifest of the layer that
 * gives each rank a card of its own, and the hash of all, by which an addon that was compiled with others is recognized.
 */
export async function contextSource(): Promise<{paths: string[]; layer: string[]; hash: string}> {
  const {readdir, readFile} = await nodeModule<typeof import('node:fs/promises')>('fs/promises');
  const {join} = await nodeModule<typeof import('node:path')>('path');
  const {createHash} = await nodeModule<typeof import('node:crypto')>('crypto');
  const native = join(await packageFolder(), 'layers/kernels/tensorflow/native');
  const filesIn = async (folder: string) =>
    (await readdir(join(native, folder))).sort().map((name) => join(native, folder, name));
  const [context, layer] = [await filesIn('context'), await filesIn('layer')];
  const hash = createHash('sha256');
  for (const path of [...context, ...layer]) hash.update(await readFile(path));
  const paths = context.filter((path) => path.endsWith('.cc'));
  return {paths, layer, hash: hash.digest('hex').slice(0, 16)};
}
