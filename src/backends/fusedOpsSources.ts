import {packageFolder} from './packageFolder.ts';
import {nodeModule} from './processor.ts';

/** The C++ of the fused ops, as it lies in this package. */
export interface FusedOpsSources {
  folder: string;
  /** Names of what is compiled, headers left out. */
  files: string[];
  /** Of all contents, by which ops compiled from other sources are known: their inputs may differ. */
  hash: string;
}

export async function fusedOpsSources(): Promise<FusedOpsSources> {
  const {readdir, readFile} = await nodeModule<typeof import('node:fs/promises')>('fs/promises');
  const {join} = await nodeModule<typeof import('node:path')>('path');
  const {createHash} = await nodeModule<typeof import('node:crypto')>('crypto');
  const folder = join(await packageFolder(), 'layers/kernels/tensorflow/native');
  const names = (await readdir(folder)).filter((name) => /\.(cc|h)$/.test(name)).sort();
  const hash = createHash('sha256');
  for (const name of names) hash.update(`${name}\n`).update(await readFile(join(folder, name)));
  const files = names.filter((name) => name.endsWith('.cc'));
  return {folder, files, hash: hash.digest('hex').slice(0, 16)};
}
