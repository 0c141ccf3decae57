import {isNode, nodeModule} from './processor.ts';

/** Returns the first NVIDIA card that the driver lists; undefined when there is none. */
export const nvidiaCard = async (): Promise<string | undefined> => (await nvidiaCards())[0];

/** Returns the NVIDIA cards that the driver lists. */
export async function nvidiaCards(): Promise<string[]> {
  if (!isNode()) return [];
  const {readdir, readFile} = await nodeModule<typeof import('node:fs/promises')>('fs/promises');
  const folder = '/proc/driver/nvidia/gpus';
  const cards = await readdir(folder).catch(() => []);
  return Promise.all(
    cards.map(async (card) => {
      const text = await readFile(`${folder}/${card}/information`, 'utf8').catch(() => '');
      return /^Model:\s*(.+)$/m.exec(text)?.[1].trim() ?? 'NVIDIA card';
    }),
  );
}

/** Libraries that TensorFlow 2 needs from each minor release on, newest first. */
const LIBRARIES: [minor: number, names: string[]][] = [
  [
    18,
    [
      'libcudart.so.12',
      'libcublas.so.12',
      'libcufft.so.11',
      'libcusolver.so.11',
      'libcusparse.so.12',
      'libcudnn.so.9',
    ],
  ],
  [
    15,
    [
      'libcudart.so.12',
      'libcublas.so.12',
      'libcufft.so.11',
      'libcusolver.so.11',
      'libcusparse.so.12',
      'libcudnn.so.8',
    ],
  ],
  [
    0,
    [
      'libcudart.so.11.0',
      'libcublas.so.11',
      'libcufft.so.10',
      'libcusolver.so.11',
      'libcusparse.so.11',
      'libcudnn.so.8',
    ],
  ],
];

/** Lists NVIDIA's libraries that a TensorFlow built for CUDA loads when it starts, the driver's first. */
export function cudaLibraries(version: string): string[] {
  const minor = Number(version.split('.')[1]);
  const [, names] = LIBRARIES.find(([first]) => minor >= first) as [number, string[]];
  return ['libcuda.so.1', ...names];
}

/**
 * Returns those of the libraries that the process cannot load.
 *
 * @param folder contains `nvidia/<package>/lib`, as with Python's packages; searched before the system's folders
 */
export async function missingLibraries(names: string[], folder: string): Promise<string[]> {
  const {existsSync} = await nodeModule<typeof import('node:fs')>('fs');
  const {readdir} = await nodeModule<typeof import('node:fs/promises')>('fs/promises');
  const packages = await readdir(`${folder}/nvidia`).catch(() => []);
  return names.filter(
    (name) => !packages.some((each) => existsSync(`${folder}/nvidia/${each}/lib/${name}`)) && !loads(name),
  );
}

/** Whether the system's loader finds a library: Node then only complains that it is not an addon. */
function loads(name: string): boolean {
  try {
    globalThis.process.dlopen({exports: {}}, name);
    return true;
  } catch (error) {
    return !(error as Error).message.includes('cannot open shared object file');
  }
}
