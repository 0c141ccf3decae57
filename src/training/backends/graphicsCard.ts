import {isNode, nodeModule} from './processor.ts';

/** Files of Linux that a graphics card's driver makes: NVIDIA's, WSL's, and those of processors with graphics. */
const CARD_FILES = /^(nvidia\d+|nvidiactl|dxg|nvgpu|nvmap|nvhost.*|mali\d*|kgsl.*|pvr.*)$/;

/**
 * Whether the machine may have a graphics card. Without one, looking for its driver only prints warnings.
 *
 * @returns false only on Linux, where a card has a file in `/dev`
 */
export async function mayHaveGraphicsCard(folder = '/dev'): Promise<boolean> {
  if (!isNode() || process.platform !== 'linux') return true;
  const {readdir} = (await nodeModule<typeof import('node:fs')>('fs')).promises;
  const namesIn = (path: string) => readdir(path).catch(() => [] as string[]);
  const [devices, cards] = [await namesIn(folder), await namesIn(`${folder}/dri`)];
  return devices.some((name) => CARD_FILES.test(name)) || cards.some((name) => name.startsWith('renderD'));
}
