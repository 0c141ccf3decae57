import {packageFolder} from './packageFolder.ts';
import {nodeModule} from './processor.ts';

/** Flags for every compiler; without errno, the root of a whole vector is one instruction. */
const FLAGS = ['-O3', '-fno-math-errno'];

/** The C++ sources of the fused ops in this package. */
export interface FusedOpsSources {
  folder: string;
  /** Files to compile, relative to the folder, without headers. */
  files: string[];
  flags: string[];
  /**
   * Hash of all contents and the flags. Ops compiled from other sources are recognized by it, as their inputs may
   * differ.
   */
  hash: string;
}

/**
 * Reads the sources of the fused ops.
 *
 * @param forCard whether to include the ops of a graphics card, in `cuda/`. Default false
 */
export async function fusedOpsSources(forCard = false): Promise<FusedOpsSources> {
  const {readdir, readFile} = await nodeModule<typeof import('node:fs/promises')>('fs/promises');
  const {join} = await nodeModule<typeof import('node:path')>('path');
  const {createHash} = await nodeModule<typeof import('node:crypto')>('crypto');
  const folder = join(await packageFolder(), 'layers/kernels/tensorflow/native');
  const folders = forCard ? ['', 'cuda/', 'cuda/kernels/'] : ['']; // of the kernels, only what the C++ includes
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
