import {packageFolder} from './packageFolder.ts';
import {nodeModule} from './processor.ts';

/** What every compiler is given; without errno, roots of whole vectors are one instruction. */
const FLAGS = ['-O3', '-fno-math-errno'];

/** The C++ of the fused ops, as it lies in this package. */
export interface FusedOpsSources {
  folder: string;
  /** Names of what is compiled, headers left out. */
  files: string[];
  flags: string[];
  /** Of all contents and the flags, by which ops compiled from other sources are known: their inputs may differ. */
  hash: string;
}

export async function fusedOpsSources(): Promise<FusedOpsSources> {
  const {readdir, readFile} = await nodeModule<typeof import('node:fs/promises')>('fs/promises');
  const {join} = await nodeModule<typeof import('node:path')>('path');
  const {createHash} = await nodeModule<typeof import('node:crypto')>('crypto');
  const folder = join(await packageFolder(), 'layers/kernels/tensorflow/native');
  const names = (await readdir(folder)).filter((name) => /\.(cc|h)$/.test(name)).sort();
  const hash = createHash('sha256').update(`${FLAGS}\n`);
  for (const name of names) hash.update(`${name}\n`).update(await readFile(join(folder, name)));
  const files = names.filter((name) => name.endsWith('.cc'));
  return {folder, files, flags: FLAGS, hash: hash.digest('hex').slice(0, 16)};
}
