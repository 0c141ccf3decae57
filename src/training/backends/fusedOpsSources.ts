import {packageFolder} from './packageFolder.ts';
import {nodeModule} from './processor.ts';

/** What every compiler is given; without errno, roots of whole vectors are one instruction. */
const FLAGS = ['-O3', '-fno-math-errno'];

/** The C++ of the fused ops, as it lies in this package. */
export interface FusedOpsSources {
  folder: string;
  /** What is compiled, relative to the folder; headers left out. */
  files: string[];
  flags: string[];
  /** Of all contents and the flags, by which ops compiled from other sources are known: their inputs may differ. */
  hash: string;
}

/** @param forCard with the ops of a graphics card, in `cuda/`, beside those of the processor */
export async function fusedOpsSources(forCard = false): Promise<FusedOpsSources> {
  const {readdir, readFile} = await nodeModule<typeof import('node:fs/promises')>('fs/promises');
  const {join} = await nodeModule<typeof import('node:path')>('path');
  const {createHash} = await nodeModule<typeof import('node:crypto')>('crypto');
  const folder = join(await packageFolder(), 'layers/kernels/tensorflow/native');
  const folders = forCard ? ['', 'cuda/', 'cuda/kernels/'] : ['']; // of kernels, what the C++ includes
  const listed = folders.map(async (each) => {
    const names = await readdir(join(folder, each));
    return names.filter((name) => /\.(cc|h)$/.test(name)).map((name) => each + name);
  });
  const names = (await Promise.all(listed)).flat().sort();
  const hash = createHash('sha256').update(`${FLAGS}\n`);
  for (const name of names) hash.update(`${name}\n`).update(await readFile(join(folder, name)));
  const files = names.filter((name) => name.endsWith('.cc'));
  return {folder, files, flags: FLAGS, hash: hash.digest('hex').slice(0, 16)};
}
